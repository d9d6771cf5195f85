//! What the labels of a Prepare or View ask for.

use pontoon_linux::IdMap;
use pontoon_snapshot::{
    Error, Key, LABEL_GID_MAPPING, LABEL_MAX_SIZE, LABEL_SNAPSHOT_REF, LABEL_UID_MAPPING, Labels,
    Result,
};

use crate::Features;

/// Refuses what this engine cannot do, before anything is made.
pub(crate) fn check(key: &Key, labels: &Labels, features: &Features) -> Result<()> {
    if labels.get(LABEL_MAX_SIZE).is_some() {
        return Err(Error::Refused {
            what: format!("snapshot {key} with label {LABEL_MAX_SIZE}"),
            reason: "this snapshotter cannot limit the size of a snapshot; leave the label out"
                .to_owned(),
        });
    }
    if id_mapping(labels)?.is_some()
        && let Err(reason) = &features.id_maps
    {
        return Err(Error::Refused {
            what: format!("snapshot {key} with id mappings"),
            reason: format!(
                "overlays cannot be idmapped here ({reason}); take capability remap-ids out of containerd's configuration, or use Linux 5.19 or later and a filesystem that can be idmapped"
            ),
        });
    }
    Ok(())
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

    fn checked(pairs: &[(&str, &str)], id_maps: Result<(), String>) -> Result<()> {
        let features = Features {
            user_namespace: false,
            userxattr: false,
            index: true,
            id_maps,
        };
        check(&Key::new("k").unwrap(), &labels(pairs), &features)
    }

    const BOTH: [(&str, &str); 2] = [(LABEL_UID_MAPPING, "0:5:1"), (LABEL_GID_MAPPING, "0:6:1")];

    #[test]
    fn a_size_limit_is_refused_with_the_reason() {
        let error = checked(&[(LABEL_MAX_SIZE, "1024")], Ok(())).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.to_string().contains("cannot limit"), "{error}");
    }

    #[test]
    fn a_mapping_is_refused_where_the_kernel_cannot_map() {
        checked(&BOTH, Ok(())).unwrap();
        let error = checked(&BOTH, Err("Linux 5.15".to_owned())).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.to_string().contains("(Linux 5.15)"), "{error}");
        checked(&[], Err("Linux 5.15".to_owned())).unwrap();
    }

    #[test]
    fn a_mapping_that_is_none_is_invalid() {
        for bad in [
            &BOTH[..1],
            &BOTH[1..],
            &[BOTH[0], (LABEL_GID_MAPPING, "1:6:1")],
            &[BOTH[0], (LABEL_GID_MAPPING, "x")],
        ] {
            assert_eq!(checked(bad, Ok(())).unwrap_err().class(), Class::Invalid);
        }
    }
}
