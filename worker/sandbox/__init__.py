"""Child processes that inspect the files of clients and runs: never the API or the worker itself."""
