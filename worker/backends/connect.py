"""Create the backend of a cluster profile."""

from worker.backends.access.transport import LocalTransport, Transport
from worker.backends.interface import Backend
from worker.backends.lepton.backend import LeptonBackend
from worker.backends.local.backend import LocalBackend
from worker.backends.slurm.backend import SlurmBackend
from worker.clusters.profiles import Cluster, LeptonCluster, LocalCluster, SlurmCluster
from worker.settings import get_settings


def connect(profile: Cluster) -> Backend:
    """Return the backend of a profile."""
    settings = get_settings()
    if isinstance(profile, SlurmCluster):
        return SlurmBackend(profile, _transport(profile))
    if isinstance(profile, LeptonCluster):
        return LeptonBackend(profile, settings.data_dir / "lepton" / profile.name)
    assert isinstance(profile, LocalCluster)
    return LocalBackend(
        root=settings.data_dir,
        python=profile.python or settings.trainer_python,
        max_running=profile.max_running,
        env_vars=profile.env_vars,
        cluster=profile.name,
        umask=profile.umask,
        roots=tuple(profile.roots),
        readable=tuple(profile.readable),
        isolation=settings.local_isolation,
        run_as=profile.run_as,
    )


def _transport(profile: SlurmCluster) -> Transport:
    if not profile.over_ssh:
        return LocalTransport({"SLURM_CONF": str(profile.slurm_conf)} if profile.slurm_conf else {})
    from worker.backends.access.ssh import SshTransport

    assert profile.host is not None
    return SshTransport(
        host=profile.host,
        user=profile.user,
        port=profile.port,
        identity=profile.identity,
        known_hosts=profile.known_hosts,
    )
