use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::Identity;

const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn anybody() -> PeerId {
    Identity::ephemeral().peer_id()
}

fn cluster_key() -> ClusterKey {
    let directory = tempfile::tempdir().unwrap();
    ClusterKey::open(&directory.path().join("cluster")).unwrap()
}

#[test]
fn without_a_configuration_only_this_machine_is_admitted() {
    let admission = Admission::open(&Config::default()).unwrap();
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
    for here in [HERE, "::1".parse().unwrap(), mapped] {
        assert_eq!(admission.admits(anybody(), here, None), Ok(()));
    }
    let refused = admission.admits(anybody(), ELSEWHERE, None);
    assert_eq!(refused, Err(Refused::NotConfigured));
}

#[test]
fn with_a_configuration_this_machine_is_as_any_other() {
    let key = cluster_key();
    let admission = Admission::open(&Config {
        cluster_key: Some(key.public()),
        ..Config::default()
    })
    .unwrap();
    for address in [HERE, ELSEWHERE] {
        let refused = admission.admits(anybody(), address, None);
        assert_eq!(refused, Err(Refused::Unknown));
    }
}

#[test]
fn a_token_admits_its_peer_until_it_expires() {
    let key = cluster_key();
    let config = Config {
        cluster_key: Some(key.public().to_string().parse().unwrap()),
        ..Config::default()
    };
    let admission = Admission::open(&config).unwrap();
    let (peer, end) = (anybody(), UNIX_EPOCH + Duration::from_secs(2_000_000_000));
    let token: Token = key.token(peer, end).to_string().parse().unwrap();
    assert_eq!(token.expires(), end);
    let admits = |peer, token: &[u8], now| admission.admits_at(peer, ELSEWHERE, Some(token), now);
    let before = end - Duration::from_secs(1);
    assert_eq!(admits(peer, token.as_bytes(), before), Ok(()));
    assert_eq!(admits(peer, token.as_bytes(), end), Err(Refused::Expired));
    // Somebody else's token, another cluster's, one that was made to last longer, one that is too short.
    let bad = Err(Refused::BadToken);
    assert_eq!(admits(anybody(), token.as_bytes(), before), bad);
    let other = cluster_key().token(peer, end);
    assert_eq!(admits(peer, other.as_bytes(), before), bad);
    for byte in 0..TOKEN_BYTES {
        let mut forged = token.as_bytes().to_vec();
        forged[byte] ^= 1;
        assert_eq!(admits(peer, &forged, before), bad, "byte {byte}");
        assert_eq!(admits(peer, &token.as_bytes()[..byte], before), bad);
    }
}

#[test]
fn a_list_is_read_again_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers");
    let (a, b) = (anybody(), anybody());
    fs::write(&path, format!("# nodes\n\n{a} node-1\n")).unwrap();
    let admission = Admission::open(&Config {
        allow_file: Some(path.clone()),
        ..Config::default()
    })
    .unwrap();
    let admitted = || [a, b].map(|peer| admission.admits(peer, ELSEWHERE, None).is_ok());
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        admission.0.allowed.as_ref().unwrap().look_now();
    };
    assert_eq!(admitted(), [true, false]);
    write(&format!("{a}\n{b}\n"));
    assert_eq!(admitted(), [true, true]);
    write(&format!("{b}\n"));
    assert_eq!(admitted(), [false, true]);
    write("half a li");
    assert_eq!(admitted(), [false, true], "what made sense last holds");
    fs::remove_file(&path).unwrap();
    admission.0.allowed.as_ref().unwrap().look_now();
    assert_eq!(admitted(), [false, false], "nobody is listed any more");
    write(&format!("{a}\n"));
    assert_eq!(admitted(), [true, false]);
}

#[test]
fn a_list_that_makes_no_sense_keeps_a_node_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers");
    let config = Config {
        allow_file: Some(path.clone()),
        ..Config::default()
    };
    assert!(matches!(Admission::open(&config), Err(Error::File { .. })));
    fs::write(&path, format!("{}\nnobody\n", anybody())).unwrap();
    let error = Admission::open(&config).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    fs::write(&path, "#".repeat(3 << 20)).unwrap();
    assert!(Admission::open(&config).is_err());
}

#[test]
fn a_node_shows_the_token_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let token = cluster_key().token(anybody(), UNIX_EPOCH);
    fs::write(&path, format!("{token}\n")).unwrap();
    let config = Config {
        token_file: Some(path.clone()),
        ..Config::default()
    };
    let admission = Admission::open(&config).unwrap();
    assert_eq!(admission.token(), Some(token));
    assert!(!admission.is_configured(), "its own token admits nobody");
    fs::write(&path, "no token").unwrap();
    let error = Admission::open(&config).unwrap_err();
    assert!(error.to_string().contains("pontoon peers token"), "{error}");
}
