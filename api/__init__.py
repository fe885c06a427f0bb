"""The HTTP layer over worker/: routes translate, worker decides."""
