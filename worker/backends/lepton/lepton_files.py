"""The files of a workspace's jobs: mirrored files, and all others if the service has the mount."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.run_layout import RunLayout
from worker.backends.access.files import FileStat, OpenFile, names_below
from worker.backends.access.local_files import LocalFiles
from worker.clusters.profiles import LeptonCluster
from worker.errors import NotReachable

_RELATIVE = RunLayout(Path())
MIRRORED = (_RELATIVE.events, _RELATIVE.end, _RELATIVE.log())


@dataclass(frozen=True)
class LeptonFiles:
    """The Files interface; paths are those inside the containers."""

    profile: LeptonCluster
    mirror: Path
    """The service's own directory that mirrors the profile's remote_job_dir."""

    def open(self, path: Path, below: Path | None = None) -> AbstractContextManager[OpenFile]:
        return LocalFiles().open(*self._pair(path, below))

    def stat(self, path: Path, below: Path | None = None) -> FileStat:
        return LocalFiles().stat(*self._pair(path, below))

    def read(self, path: Path, offset: int, limit: int, below: Path | None = None) -> bytes:
        here, top = self._pair(path, below)
        return LocalFiles().read(here, offset, limit, top)

    def tree_size(self, path: Path, below: Path) -> int:
        return sum(LocalFiles().tree_size(one, top) for one, top in self._trees(path, below))

    def remove_tree(self, path: Path, below: Path) -> None:
        for one, top in self._trees(path, below):
            LocalFiles().remove_tree(one, top)

    def sizes(self, paths: Sequence[Path]) -> dict[Path, int]:
        here = {}
        for path in paths:
            with suppress(NotReachable):
                here[self._here(path)] = path
        return {here[one]: size for one, size in LocalFiles().sizes(list(here)).items()}

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        LocalFiles().write(self._here(path), content, mode)

    def create(self, path: Path, content: bytes, mode: int = 0o600) -> bool:
        return LocalFiles().create(self._here(path), content, mode)

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        LocalFiles().make_directory(self._here(path), mode)

    def remove(self, path: Path) -> None:
        with suppress(NotReachable):  # without the mount the service cannot have written the file either
            LocalFiles().remove(self._here(path))

    # -- paths ----------------------------------------------------------------------------------

    def _here(self, path: Path) -> Path:
        """Translate a path in the containers to the service's path. Raises NotReachable."""
        root, here = self._place(path)
        return here / path.relative_to(root)

    def _pair(self, path: Path, below: Path | None) -> tuple[Path, Path | None]:
        """Translate a path and a parent directory; a parent above the mount becomes the mount itself."""
        if below is None:
            return self._here(path), None
        names_below(path, below)
        root, here = self._place(path)
        top = here / below.relative_to(root) if below.is_relative_to(root) else here
        return here / path.relative_to(root), top

    def _place(self, path: Path) -> tuple[Path, Path]:
        """Return the directory in the containers that a path is read below, and the service's path of it."""
        root = self.profile.remote_job_dir
        if path.is_relative_to(root) and Path(*path.relative_to(root).parts[4:]) in MIRRORED:
            return root, self.mirror
        return self._mount(path)

    def mounted(self, path: Path) -> Path:
        """Translate a path in the containers to the service's mount. Raises NotReachable."""
        root, here = self._mount(path)
        return here / path.relative_to(root)

    def _mount(self, path: Path) -> tuple[Path, Path]:
        mount, local = self.profile.job_mount, self.profile.local_mount
        if mount is None or local is None or not path.is_relative_to(mount.mount_path):
            raise NotReachable(
                f"The service cannot read {str(path)!r}, which is in the containers of cluster "
                f"{self.profile.name!r}.",
                hint="Fetch it from the storage that the workspace mounts there, or ask the operator to set "
                "`local_mount` in the cluster's profile.",
            )
        return mount.mount_path, local

    def mirrored(self, path: Path) -> Path:
        """Translate a path below remote_job_dir to the mirror. Raises NotReachable."""
        if not path.is_relative_to(self.profile.remote_job_dir):
            raise NotReachable(f"{str(path)!r} lies outside the profile's remote_job_dir.")
        return self.mirror / path.relative_to(self.profile.remote_job_dir)

    def _trees(self, path: Path, below: Path) -> list[tuple[Path, Path]]:
        """Return (path, below) in the mirror and on the mount, as far as they exist."""
        trees = [(self.mirrored(path), self.mirrored(below))]
        with suppress(NotReachable):
            trees.append((self._here(path), self._here(below)))
        return [(one, top) for one, top in trees if one.exists()]
