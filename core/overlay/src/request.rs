//! What the labels of a Prepare or View ask for.

use pontoon_linux::IdMap;
use pontoon_snapshot::{
    Error, Key, LABEL_GID_MAPPING, LABEL_MAX_SIZE, LABEL_SNAPSHOT_REF, LABEL_UID_MAPPING, Labels,
    Result,
};

use crate::Features;
use crate::root::Owner;

/// Refuses what this engine cannot do, before anything is made.
pub(crate) fn check(key: &Key, labels: &Labels) -> Result<()> {
    if labels.get(LABEL_MAX_SIZE).is_some() {
        return Err(Error::Refused {
            what: format!("snapshot {key} with label {LABEL_MAX_SIZE}"),
            reason: "this snapshotter cannot limit the size of a snapshot; leave the label out"
                .to_owned(),
        });
    }
    Ok(())
}

/// The part of `asked` that mounts carry out: all of it where the kernel can, else nothing.
///
/// containerd sends its labels also where it changes the owners of a copy of the image itself, which is what
/// `slow_chown` allows. Mapping ids that were changed already would map them twice.
pub(crate) fn mounted_mapping<'a>(
    key: &Key,
    asked: Option<&'a IdMapping>,
    features: &Features,
    slow_chown: bool,
) -> Result<Option<&'a IdMapping>> {
    match (asked, &features.id_maps) {
        (None, _) => Ok(None),
        (Some(mapping), Ok(())) => Ok(Some(mapping)),
        (Some(_), Err(_)) if slow_chown => Ok(None),
        (Some(_), Err(reason)) => Err(Error::Refused {
            what: format!("snapshot {key} with id mappings"),
            reason: format!(
                "overlays cannot be idmapped here ({reason}); set slow_chown = true and configure containerd anew, so that it changes the owners in a copy of the image, or use Linux 5.19 or later and a filesystem that can be idmapped"
            ),
        }),
    }
}

/// The chain ID of the layer that is to be extracted.
pub(crate) fn extract_target(labels: &Labels) -> Option<&str> {
    labels.get(LABEL_SNAPSHOT_REF)
}

/// The id mapping that the labels ask for.
pub(crate) fn id_mapping(labels: &Labels) -> Result<Option<IdMapping>> {
    IdMapping::parse(labels.get(LABEL_UID_MAPPING), labels.get(LABEL_GID_MAPPING))
}

/// A mapping, and the mount options that name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMapping {
    map: IdMap,
    mount_options: [String; 2],
}

impl IdMapping {
    pub(crate) fn parse(uids: Option<&str>, gids: Option<&str>) -> Result<Option<Self>> {
        let (uids, gids) = match (uids, gids) {
            (Some(uids), Some(gids)) => (uids, gids),
            (None, None) => return Ok(None),
            // A mount would quietly come out unmapped.
            _ => {
                return Err(Error::invalid(
                    format!("one of labels {LABEL_UID_MAPPING} and {LABEL_GID_MAPPING} alone"),
                    "ids are mapped by both together; set both",
                ));
            }
        };
        let map = IdMap::parse(uids, gids).map_err(|error| {
            Error::invalid(
                format!("id mapping in labels {LABEL_UID_MAPPING} and {LABEL_GID_MAPPING}"),
                error.to_string(),
            )
        })?;
        let mount_options = [format!("uidmap={uids}"), format!("gidmap={gids}")];
        Ok(Some(IdMapping { map, mount_options }))
    }

    pub(crate) fn map(&self) -> &IdMap {
        &self.map
    }

    /// The host's ids of the container's root.
    pub(crate) fn owner(&self) -> Owner {
        let (uid, gid) = self.map.root();
        Owner { uid, gid }
    }

    pub(crate) fn mount_options(&self) -> &[String] {
        &self.mount_options
    }
}

#[cfg(test)]
mod tests {
    use pontoon_snapshot::Class;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()));
        Labels::new(pairs).unwrap()
    }

    /// Whether ids are mapped by the mounts.
    fn mapped(pairs: &[(&str, &str)], kernel_can: bool, slow_chown: bool) -> Result<bool> {
        let features = Features {
            user_namespace: false,
            userxattr: false,
            index: true,
            id_maps: kernel_can
                .then_some(())
                .ok_or_else(|| "Linux 5.15".to_owned()),
        };
        let asked = id_mapping(&labels(pairs))?;
        let key = Key::new("k").unwrap();
        let mounted = mounted_mapping(&key, asked.as_ref(), &features, slow_chown)?;
        assert!(mounted.is_none() || mounted == asked.as_ref());
        Ok(mounted.is_some())
    }

    const BOTH: [(&str, &str); 2] = [(LABEL_UID_MAPPING, "0:5:1"), (LABEL_GID_MAPPING, "0:6:1")];

    #[test]
    fn a_size_limit_is_refused_with_the_reason() {
        let key = Key::new("k").unwrap();
        let error = check(&key, &labels(&[(LABEL_MAX_SIZE, "1024")])).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.to_string().contains("cannot limit"), "{error}");
    }

    #[test]
    fn what_the_kernel_cannot_map_is_refused_or_left_to_containerd() {
        for slow_chown in [false, true] {
            assert!(mapped(&BOTH, true, slow_chown).unwrap());
            for kernel_can in [false, true] {
                assert!(!mapped(&[], kernel_can, slow_chown).unwrap());
            }
        }
        assert!(!mapped(&BOTH, false, true).unwrap());
        let error = mapped(&BOTH, false, false).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        for part in ["(Linux 5.15)", "slow_chown = true"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_mapping_that_is_none_is_invalid() {
        for bad in [
            &BOTH[..1],
            &BOTH[1..],
            &[BOTH[0], (LABEL_GID_MAPPING, "1:6:1")],
            &[BOTH[0], (LABEL_GID_MAPPING, "x")],
        ] {
            assert_eq!(mapped(bad, true, true).unwrap_err().class(), Class::Invalid);
        }
    }
}
