//! Whether a directory is one of a container's own, which no other container sees.

use std::path::Path;

use rustix::fs::{Dev, stat};

/// The number of overlay file systems in `statfs`.
const OVERLAY: i128 = 0x794c_7630;

/// What Docker and Podman leave in the root directory of each container.
const MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Where Docker, containerd, and Podman or CRI-O keep the files of containers.
const LAYERS: [&str; 3] = ["/docker/", "containerd", "/containers/storage/"];

/// Whether a directory of this kind of file system, on this device, belongs to a container alone.
///
/// It does if it is on the overlay that a container has for its root. A live system and some routers have an
/// overlay for their root too, and then all processes of the host see it.
pub(super) fn is_own_of_container(kind: impl Into<i128>, device: Dev) -> bool {
    kind.into() & 0xffff_ffff == OVERLAY && stat("/").is_ok_and(|root| root.st_dev == device) && {
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        MARKS.iter().any(|mark| Path::new(mark).exists()) || is_root_of_container(&mounts())
    }
}

/// Whether the root of these mounts, as in `mountinfo`, is an overlay of a container's layers.
fn is_root_of_container(mounts: &str) -> bool {
    let root = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    let overlay = root.and_then(|line| line.split_once(" - overlay "));
    overlay.is_some_and(|(_, options)| LAYERS.iter().any(|layers| options.contains(layers)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_containers_are_told_from_other_overlays() {
        let docker = "29 1 0:50 / / rw,relatime master:9 - overlay overlay rw,\
                      lowerdir=/var/lib/docker/overlay2/l/A,upperdir=/var/lib/docker/overlay2/b/diff";
        let pod = "29 1 0:50 / / rw,relatime - overlay overlay rw,\
                   upperdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs";
        let podman =
            "29 1 0:50 / / rw - overlay overlay rw,upperdir=/var/lib/containers/storage/overlay/c/diff";
        let live = "29 1 0:50 / / rw,relatime - overlay /cow rw,lowerdir=/filesystem,upperdir=/cow/upper";
        let host = "29 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw";
        let beside = docker.replace(" / / ", " / /srv/docker/merged ");
        for mounts in [docker, pod, podman] {
            assert!(is_root_of_container(mounts), "{mounts}");
            assert!(is_root_of_container(&format!(
                "{host}\n{mounts}\n31 29 0:5 / /proc rw - proc proc rw\n"
            )));
        }
        for mounts in ["", "junk", live, host, &format!("{host}\n{beside}")] {
            assert!(!is_root_of_container(mounts), "{mounts}");
        }
    }

    #[test]
    fn other_file_systems_are_no_containers() {
        let root = stat("/").unwrap();
        // ext4, and tmpfs.
        for kind in [0xef53_i64, 0x0102_1994] {
            assert!(!is_own_of_container(kind, root.st_dev));
        }
        assert!(!is_own_of_container(0x794c_7630_i64, root.st_dev + 1));
    }
}
