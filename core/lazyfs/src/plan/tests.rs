use pontoon_layer::{Algorithm, Chunk, ChunkTable, Compression};
use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds<'static> = Bounds {
    gap_max: 100,
    request_max: 10_000,
    ends: &[],
};

/// A table of chunks of one byte each, of these members: bytes of the gap before, less than none if they overlap, bytes,
/// chunks. Each begins behind the beginning of the one before.
fn table(members: &[(i64, u32, usize)]) -> Vec<u8> {
    let (mut chunks, mut blob_offset, mut start_min) = (Vec::new(), 0_u64, 0);
    for (gap, bytes, count) in members {
        blob_offset = blob_offset.saturating_add_signed(*gap).max(start_min);
        start_min = blob_offset + 1;
        for inner_offset in 0..*count as u64 {
            chunks.push(Chunk {
                data_offset: chunks.len() as u64,
                length: 1,
                blob_length: *bytes,
                blob_offset,
                inner_offset,
                compression: Compression::Gzip,
                algorithm: Algorithm::Sha256,
                digest: [0; 32],
            });
        }
        blob_offset += u64::from(*bytes);
    }
    let size = chunks.len() as u64;
    ChunkTable::new(Compression::Gzip, size, chunks)
        .unwrap()
        .encode()
}

fn wanted(table: &ChunkTableRef<'_>, indexes: &[usize]) -> Vec<Member> {
    indexes
        .iter()
        .map(|index| Member::of(table, *index).unwrap())
        .collect()
}

fn firsts(members: &[Member]) -> Vec<usize> {
    members.iter().map(Member::key).collect()
}

#[test]
fn chunks_of_a_member_go_together() {
    let bytes = table(&[(0, 10, 3), (0, 10, 1)]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    let member = Member::of(&table, 1).unwrap();
    assert_eq!((member.chunks.clone(), member.blob.clone()), (0..3, 0..10));
    assert_eq!(member.bytes(), 10);
}

#[test]
fn zeros_are_no_members() {
    let bytes = table(&[(0, 0, 1), (0, 10, 1)]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    assert_eq!(Member::of(&table, 0), None);
    assert_eq!(Member::of(&table, 2), None);
}

#[test]
fn what_follows_comes_along() {
    let bytes = table(&[(0, 10, 1); 10]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    let mut members = wanted(&table, &[3]);
    // 5 is here already.
    widen(&table, &mut members, 30, BOUNDS, |member| member.key() != 5);
    assert_eq!(firsts(&members), [3, 4, 6]);
}

#[test]
fn what_is_large_does_not_come_along() {
    let bytes = table(&[(0, 10, 1), (0, 10, 1), (0, 16, 1), (0, 1, 1)]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    for (bytes_max, came) in [
        (31, vec![0, 1]),
        (37, vec![0, 1, 2, 3]),
        (36, vec![0, 1, 2]),
    ] {
        let mut members = wanted(&table, &[0]);
        widen(&table, &mut members, bytes_max, BOUNDS, |_| true);
        assert_eq!(firsts(&members), came, "{bytes_max}");
    }
}

#[test]
fn what_is_far_behind_does_not_come_along() {
    let bytes = table(&[(0, 10, 1), (101, 10, 1), (0, 10, 1)]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    let mut members = wanted(&table, &[0]);
    widen(&table, &mut members, 1000, BOUNDS, |_| true);
    assert_eq!(firsts(&members), [0]);
}

#[test]
fn what_lies_in_a_gap_comes_along() {
    let bytes = table(&[(0, 10, 1); 5]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    let mut members = wanted(&table, &[0, 4]);
    widen(&table, &mut members, 0, BOUNDS, |member| member.key() != 2);
    members.sort_by_key(Member::key);
    assert_eq!(firsts(&members), [0, 1, 3, 4]);
    assert_eq!(coalesce(members, BOUNDS).len(), 1);
}

#[test]
fn members_of_the_same_bytes_come_together() {
    let member = |first, blob| Member {
        chunks: first..first + 1,
        blob,
    };
    let members = vec![
        member(7, 10..20),
        member(0, 0..10),
        member(5, 20..30),
        member(1, 10..20),
    ];
    // However small requests are to be.
    let bounds = Bounds {
        request_max: 20,
        ..BOUNDS
    };
    let requests = coalesce(members, bounds);
    let firsts: Vec<_> = requests.iter().map(|request| firsts(request)).collect();
    assert_eq!(firsts, [vec![0, 1, 7], vec![5]]);
}

#[test]
fn no_request_goes_from_one_blob_into_the_next() {
    let bytes = table(&[(0, 10, 1); 6]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    // The first blob ends behind the second member, the second one is empty.
    let bounds = Bounds {
        ends: &[20, 20, 55, 60],
        ..BOUNDS
    };
    let mut members = wanted(&table, &[0]);
    widen(&table, &mut members, 1000, bounds, |_| true);
    assert_eq!(firsts(&members), [0, 1]);
    let all = wanted(&table, &[0, 1, 2, 3, 4, 5]);
    let requests = coalesce(all, bounds);
    let requests: Vec<_> = requests.iter().map(|request| firsts(request)).collect();
    assert_eq!(requests, [vec![0, 1], vec![2, 3, 4, 5]]);
}

#[test]
fn what_another_file_has_too_does_not_end_what_follows() {
    let mut chunks: Vec<Chunk> = ChunkTableRef::open(&table(&[(0, 10, 1); 5]))
        .unwrap()
        .iter()
        .collect();
    // The third chunk is the first one again.
    chunks[2].blob_offset = chunks[0].blob_offset;
    let bytes = ChunkTable::new(Compression::Gzip, 5, chunks)
        .unwrap()
        .encode();
    let table = ChunkTableRef::open(&bytes).unwrap();
    let mut members = wanted(&table, &[1]);
    widen(&table, &mut members, 1000, BOUNDS, |_| true);
    assert_eq!(firsts(&members), [1, 3, 4]);
}

/// A directory between two files of its parent: its own files are far off in the blob.
#[test]
fn what_is_elsewhere_does_not_end_what_follows() {
    let mut chunks: Vec<Chunk> = ChunkTableRef::open(&table(&[(0, 10, 1); 5]))
        .unwrap()
        .iter()
        .collect();
    chunks[2].blob_offset = 1000;
    chunks[3].blob_offset = 20;
    chunks[4].blob_offset = 30;
    let bytes = ChunkTable::new(Compression::Gzip, 5, chunks)
        .unwrap()
        .encode();
    let table = ChunkTableRef::open(&bytes).unwrap();
    let mut members = wanted(&table, &[1]);
    widen(&table, &mut members, 500, BOUNDS, |_| true);
    assert_eq!(firsts(&members), [1, 3, 4]);
}

/// What comes out of the middle of a gzip stream begins up to a block before the end of what comes before it.
#[test]
fn what_overlaps_is_asked_for_at_once() {
    let member = |first, blob| Member {
        chunks: first..first + 1,
        blob,
    };
    let requests = |members: &[Member]| -> Vec<Vec<usize>> {
        let requests = coalesce(members.to_vec(), BOUNDS);
        requests.iter().map(|request| firsts(request)).collect()
    };
    let [one, two, three] = [member(0, 0..10), member(1, 5..15), member(2, 8..20)];
    assert_eq!(requests(&[two.clone(), one.clone(), three]), [[0, 1, 2]]);
    // What begins or ends with another one, or is in it, is no next part of a stream.
    for other in [member(2, 0..12), member(2, 2..10), member(2, 2..8)] {
        let requests = requests(&[one.clone(), other]);
        assert_eq!(requests.len(), 2, "{requests:?}");
    }
    let bytes = table(&[(0, 10, 1), (-3, 10, 1), (-3, 10, 1), (-3, 10, 1)]);
    let table = ChunkTableRef::open(&bytes).unwrap();
    let mut members = wanted(&table, &[1]);
    widen(&table, &mut members, 20, BOUNDS, |_| true);
    assert_eq!(firsts(&members), [1, 2]);
    // Between two that do not overlap there may be one that does.
    let mut members = wanted(&table, &[0, 2]);
    widen(&table, &mut members, 0, BOUNDS, |_| true);
    members.sort_by_key(Member::key);
    assert_eq!(firsts(&members), [0, 1, 2]);
}

proptest! {
    /// Whatever is asked for is in exactly one request, and requests keep to their bounds.
    #[test]
    fn requests_bring_everything_once(
        members in prop::collection::vec((-100i64..200, 1u32..400, 1usize..4), 1..60),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
        max in 0u64..3000,
        mut ends in prop::collection::vec(0u64..5000, 0..4),
    ) {
        ends.sort_unstable();
        let bytes = table(&members);
        let table = ChunkTableRef::open(&bytes).unwrap();
        let mut picked: Vec<Member> = picks
            .iter()
            .filter_map(|pick| Member::of(&table, pick.index(table.len())))
            .collect();
        picked.sort_by_key(Member::key);
        picked.dedup();
        let asked = firsts(&picked);
        let bounds = Bounds { gap_max: 100, request_max: 2000, ends: &ends };
        let mut members = picked.clone();
        let free = |member: &Member| !asked.contains(&member.key());
        widen(&table, &mut members, max, bounds, free);
        let requests = coalesce(members.clone(), bounds);
        let mut brought: Vec<usize> = requests.iter().flatten().map(Member::key).collect();
        brought.sort_unstable();
        let count = brought.len();
        brought.dedup();
        prop_assert_eq!(brought.len(), count, "a member comes twice");
        prop_assert!(asked.iter().all(|key| brought.contains(key)));
        for request in requests {
            for pair in request.windows(2) {
                prop_assert!(pair[0].blob.start < pair[1].blob.start);
                prop_assert!(pair[0].blob.end < pair[1].blob.end);
                let gap = pair[1].blob.start.saturating_sub(pair[0].blob.end);
                prop_assert!(gap <= bounds.gap_max);
                let between = pair[0].blob.end..=pair[1].blob.start;
                prop_assert!(!ends.iter().any(|end| between.contains(end)));
            }
            let span = request[request.len() - 1].blob.end - request[0].blob.start;
            prop_assert!(request.len() == 1 || span <= bounds.request_max);
        }
        let bytes: u64 = members.iter().map(Member::bytes).sum();
        let alone: u64 = picked.iter().map(Member::bytes).sum();
        prop_assert!(members.len() == picked.len() || bytes > alone);
        // What lies behind the last one fits.
        let last = picked.iter().map(Member::key).max();
        let behind = members.iter().filter(|member| Some(member.key()) > last);
        let is_small = |member: &Member| member.bytes() <= max / 2;
        prop_assert!(behind.clone().count() == 0 || bytes <= max && behind.clone().all(is_small));
    }
}
