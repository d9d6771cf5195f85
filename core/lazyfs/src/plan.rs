//! What to fetch together. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use pontoon_layer::ChunkTableRef;

/// Bytes of the blob that are fetched and inflated as a whole, and the chunks that come out of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Indexes in the chunk table.
    pub(crate) chunks: Range<usize>,
    pub(crate) blob: Range<u64>,
}

impl Member {
    /// The member of chunk `index`; `None` for zeros, which are not fetched.
    pub(crate) fn of(table: &ChunkTableRef<'_>, index: usize) -> Option<Member> {
        let chunk = table.get(index)?;
        (!chunk.is_zeros()).then(|| Member {
            chunks: table.same_member(index),
            blob: chunk.blob_offset..chunk.blob_end(),
        })
    }

    /// What tells it from other members of the layer.
    pub(crate) fn key(&self) -> usize {
        self.chunks.start
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blob.end.saturating_sub(self.blob.start)
    }

    /// About how many bytes come out of it.
    pub(crate) fn data_bytes(&self, table: &ChunkTableRef<'_>) -> u64 {
        let (first, last) = (self.chunks.start, self.chunks.end.saturating_sub(1));
        match (table.get(first), table.get(last)) {
            (Some(first), Some(last)) => last.data_end().saturating_sub(first.data_offset),
            _ => 0,
        }
    }
}

/// Members by their chunks. To find that of a chunk takes as long as it has chunks, and some have a million: so it is
/// done once for each.
#[derive(Debug, Default)]
pub(crate) struct Members(BTreeMap<usize, usize>);

impl Members {
    pub(crate) fn add(&mut self, member: &Member) {
        self.0.insert(member.chunks.start, member.chunks.end);
    }

    /// Whether one of them has the chunk `index`.
    pub(crate) fn has(&self, index: usize) -> bool {
        let before = self.0.range(..=index).next_back();
        before.is_some_and(|(_, end)| index < *end)
    }
}

/// Members that one request brings, in the order in which they come.
pub(crate) type Request = Vec<Member>;

/// What may be fetched at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// Unwanted bytes between two members of a request.
    pub(crate) gap_max: u64,
    /// Bytes of a request, unless one member is larger.
    pub(crate) request_max: u64,
    /// Where blobs end, ascending: a request across that would be two, one after the other.
    pub(crate) ends: &'a [u64],
}

impl Bounds<'_> {
    /// Bytes between two members, none if the end of one is the beginning of the next too; `None` if they come in the other
    /// order or are in different blobs.
    fn gap(&self, before: &Member, after: &Member) -> Option<u64> {
        if !follows(&before.blob, &after.blob) {
            return None;
        }
        let gap = after.blob.start.saturating_sub(before.blob.end);
        let next = self.ends.partition_point(|end| *end < before.blob.end);
        let end = self.ends.get(next).copied().unwrap_or(u64::MAX);
        (after.blob.start < end).then_some(gap)
    }
}

/// Whether bytes `after` begin and end behind `before`. They may overlap: what comes out of the middle of a gzip stream
/// begins where a block does, which may be before what comes before it ends.
fn follows(before: &Range<u64>, after: &Range<u64>) -> bool {
    before.start < after.start && before.end < after.end
}

/// How many members are looked at in search of one that lies near another one in the blob. Where the same bytes are in
/// several files, what is near in the layer may be far off in the blob.
const LOOK_MAX: usize = 1024;

/// Adds to what is `wanted` what lies in its gaps, which comes at no extra cost, and members behind it as long as all
/// of it has at most `bytes_max` bytes: small ones, of at most half of that. A small one that is used saves a round trip, a
/// large one that is not costs several. `free` tells whether a member is missing and nobody fetches it yet.
pub(crate) fn widen(
    table: &ChunkTableRef<'_>,
    wanted: &mut Vec<Member>,
    bytes_max: u64,
    bounds: Bounds<'_>,
    mut free: impl FnMut(&Member) -> bool,
) {
    wanted.sort_by_key(|member| (member.blob.start, member.chunks.start));
    let mut filling = Vec::new();
    for pair in wanted.windows(2) {
        if let [before, after] = pair
            && bounds
                .gap(before, after)
                .is_some_and(|gap| 0 < gap && gap <= bounds.gap_max)
        {
            fill(table, before, after, &mut free, &mut filling);
        }
    }
    let mut bytes: u64 = wanted.iter().chain(&filling).map(Member::bytes).sum();
    let Some(mut last) = wanted.last().cloned() else {
        return;
    };
    let bytes_max = bytes_max.min(bounds.request_max);
    while bytes < bytes_max
        && let Some(next) = behind(table, &last, bounds, &mut free)
    {
        bytes = bytes.saturating_add(next.bytes());
        if bytes > bytes_max || next.bytes() > bytes_max / 2 {
            break;
        }
        last = next.clone();
        filling.push(next);
    }
    wanted.append(&mut filling);
}

fn fill(
    table: &ChunkTableRef<'_>,
    before: &Member,
    after: &Member,
    free: &mut impl FnMut(&Member) -> bool,
    filling: &mut Vec<Member>,
) {
    let mut last = before.blob.clone();
    let mut index = before.chunks.end;
    let until = after.chunks.start.min(index.saturating_add(LOOK_MAX));
    while index < until {
        let Some(member) = Member::of(table, index) else {
            index += 1;
            continue;
        };
        index = member.chunks.end;
        let fits = follows(&last, &member.blob) && follows(&member.blob, &after.blob);
        if fits && free(&member) {
            last = member.blob.clone();
            filling.push(member);
        }
    }
}

/// The next free member behind `last`, both in the layer and, not far off, in the blob. What comes between them in the layer
/// may be far off: nydus-image puts the files of a directory next to each other and what is in its directories elsewhere.
fn behind(
    table: &ChunkTableRef<'_>,
    last: &Member,
    bounds: Bounds<'_>,
    free: &mut impl FnMut(&Member) -> bool,
) -> Option<Member> {
    let mut index = last.chunks.end;
    let until = table.len().min(index.saturating_add(LOOK_MAX));
    while index < until {
        let Some(member) = Member::of(table, index) else {
            index += 1;
            continue;
        };
        index = member.chunks.end;
        // What another file has too may lie before it.
        if !follows(&last.blob, &member.blob) {
            continue;
        }
        let gap = bounds.gap(last, &member);
        if gap.is_some_and(|gap| gap <= bounds.gap_max) && free(&member) {
            return Some(member);
        }
    }
    None
}

/// Makes as few requests of `members` as `bounds` let it. Members of the same bytes follow each other in one.
pub(crate) fn coalesce(mut members: Vec<Member>, bounds: Bounds<'_>) -> Vec<Request> {
    members.sort_by_key(|member| (member.blob.start, member.blob.end, member.chunks.start));
    let mut requests: Vec<Request> = Vec::new();
    for member in members {
        if let Some(request) = requests.last_mut()
            && let (Some(first), Some(last)) = (request.first(), request.last())
            && (last.blob == member.blob
                || bounds
                    .gap(last, &member)
                    .is_some_and(|gap| gap <= bounds.gap_max)
                    && member.blob.end - first.blob.start <= bounds.request_max)
        {
            request.push(member);
        } else {
            requests.push(vec![member]);
        }
    }
    requests
}

#[cfg(test)]
mod tests;
