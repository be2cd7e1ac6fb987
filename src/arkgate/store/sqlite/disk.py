"""Which file system a database lies on: SQLite's log needs one of this host."""

from pathlib import Path

from arkgate.core.errors import StoreUnavailable

MOUNTS = Path("/proc/self/mounts")
SHARED = frozenset(
    {"9p", "afs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "smb3", "smbfs", "fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)
"""File systems that other hosts may write, too: locks and shared memory do not hold across them."""


def refuse_shared(database: Path, mounts: Path = MOUNTS) -> None:
    """Raises StoreUnavailable for a database on a network file system. Says nothing where none are listed."""
    try:
        listed = mounts.read_text()
    except OSError:
        return
    kind = _kind(database.absolute(), listed)
    if kind in SHARED:
        raise StoreUnavailable(
            f"The ledger {database} lies on a network file system ({kind}), where SQLite can lose what was "
            "acknowledged. Put it on a local disk, or use PostgreSQL.",
            code="store_unfit",
        )


def _kind(path: Path, mounts: str) -> str:
    """The kind of the file system that holds a path: that of the longest mount point above it."""
    longest, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2:
            point = Path(fields[1].encode().decode("unicode_escape"))
            if path.is_relative_to(point) and len(point.parts) >= longest:
                longest, kind = len(point.parts), fields[2]
    return kind
