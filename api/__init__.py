"""The HTTP skin over worker/: routes translate, worker decides."""
