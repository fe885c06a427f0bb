"""python -c THIS DIRECTORY CONFIG REPLICA: unpack the code into DIRECTORY, and the job's config to CONFIG."""

import base64
import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

parts = [os.environ[f"SFT_BUNDLE_{number}"] for number in range(int(os.environ["SFT_BUNDLE_PARTS"]))]
packed = base64.b64decode("".join(parts))
if hashlib.sha256(packed).hexdigest() != os.environ["SFT_BUNDLE_SHA256"]:
    sys.exit("The trainer's code and config did not arrive whole: their checksum is another one.")
directory, config = map(Path, sys.argv[1:3])
with tarfile.open(fileobj=io.BytesIO(packed), mode="r:xz") as bundle:
    bundle.extractall(directory, filter="data")
# All replicas write the same bytes, possibly into a shared directory: the rename is atomic.
fresh = config.with_name(f"{config.name}.{sys.argv[3]}")
fresh.write_bytes((directory / config.name).read_bytes())
fresh.replace(config)
