use std::sync::Mutex;
use std::time::Duration;

use super::*;

/// What a blob was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Read(Range<u64>),
    Stream(Range<u64>),
    Damage(Range<u64>),
}

#[derive(Debug)]
struct Fake {
    digest: Digest,
    bytes: Bytes,
    asked: Mutex<Vec<Asked>>,
    /// Of each of its streams, after so many bytes.
    fails_after: Option<u64>,
    has_others: bool,
    progress: Option<Instant>,
    pace: Option<Pace>,
}

impl Fake {
    fn new(bytes: &'static [u8]) -> Fake {
        Fake {
            digest: Digest::of(bytes),
            bytes: Bytes::from_static(bytes),
            asked: Mutex::default(),
            fails_after: None,
            has_others: false,
            progress: None,
            pace: None,
        }
    }

    fn ask(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Blob for Fake {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>, _: Urgency) -> BoxFuture<'_, Result<Bytes>> {
        self.ask(Asked::Read(range.clone()));
        let bytes = self.bytes.slice(range.start as usize..range.end as usize);
        Box::pin(async move { Ok(bytes) })
    }

    fn stream(&self, range: Range<u64>, _: Urgency) -> Box<dyn ByteStream> {
        self.ask(Asked::Stream(range.clone()));
        let bytes = self.bytes.slice(range.start as usize..range.end as usize);
        Box::new(Pieces(bytes, self.fails_after))
    }

    fn report_damage(&self, range: Range<u64>) -> bool {
        self.ask(Asked::Damage(range));
        self.has_others
    }

    fn last_progress(&self) -> Option<Instant> {
        self.progress
    }

    fn pace(&self) -> Option<Pace> {
        self.pace
    }
}

/// Two bytes at a time.
#[derive(Debug)]
struct Pieces(Bytes, Option<u64>);

impl ByteStream for Pieces {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        Box::pin(async move {
            if self.0.is_empty() {
                return Ok(None);
            }
            if self.1 == Some(0) {
                return Err(Error::NotFound {
                    host: "fake".to_owned(),
                    object: "it".to_owned(),
                });
            }
            let piece = self.0.split_to(self.0.len().min(2));
            self.1 = self.1.map(|left| left.saturating_sub(piece.len() as u64));
            Ok(Some(piece))
        })
    }
}

const ALL: &[u8] = b"abcdefghijkl";

/// `abcde`, nothing, `fgh`, `ijkl`.
fn fakes() -> Vec<Arc<Fake>> {
    let parts = [&ALL[..5], b"", &ALL[5..8], &ALL[8..]];
    parts.map(|bytes| Arc::new(Fake::new(bytes))).into()
}

fn joined(fakes: &[Arc<Fake>]) -> Joined {
    let blobs = fakes.iter().map(|fake| Arc::clone(fake) as Arc<dyn Blob>);
    Joined::new(Digest::of(b"all"), blobs.collect()).unwrap()
}

async fn drain(mut stream: Box<dyn ByteStream>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await? {
        assert!(!piece.is_empty());
        all.extend_from_slice(&piece);
    }
    assert_eq!(stream.next().await?, None);
    Ok(all)
}

#[tokio::test]
async fn any_range_is_read_and_streamed() {
    let joined = joined(&fakes());
    assert_eq!(joined.size(), 12);
    assert_eq!(joined.ends(), [5, 5, 8, 12]);
    assert_eq!(*joined.digest(), Digest::of(b"all"));
    for start in 0..=12 {
        for end in start..=12 {
            let (range, expected) = (start as u64..end as u64, &ALL[start..end]);
            let read = joined.read(range.clone(), Urgency::Demand).await.unwrap();
            assert_eq!(read, expected);
            let streamed = drain(joined.stream(range, Urgency::Demand)).await.unwrap();
            assert_eq!(streamed, expected);
        }
    }
}

#[tokio::test]
async fn each_blob_is_asked_for_its_own_part() {
    let fakes = fakes();
    let joined = joined(&fakes);
    let asked = || -> Vec<Vec<Asked>> { fakes.iter().map(|fake| fake.asked()).collect() };
    joined.read(6..8, Urgency::Demand).await.unwrap();
    assert_eq!(asked(), [vec![], vec![], vec![Asked::Read(1..3)], vec![]]);
    joined.read(4..9, Urgency::Demand).await.unwrap();
    assert_eq!(
        asked(),
        [
            vec![Asked::Read(4..5)],
            vec![],
            vec![Asked::Read(0..3)],
            vec![Asked::Read(0..1)]
        ]
    );
    // The second one not before the first has ended: nobody may read so far.
    let mut stream = joined.stream(3..7, Urgency::Background);
    assert_eq!(stream.next().await.unwrap().unwrap(), ALL[3..5]);
    assert_eq!(asked(), [vec![Asked::Stream(3..5)], vec![], vec![], vec![]]);
    assert_eq!(stream.next().await.unwrap().unwrap(), ALL[5..7]);
    assert_eq!(asked(), [vec![], vec![], vec![Asked::Stream(0..2)], vec![]]);
}

#[tokio::test]
async fn damage_is_reported_to_whom_it_was_read_from() {
    let mut fakes: Vec<Fake> = fakes().into_iter().flat_map(Arc::into_inner).collect();
    fakes[0].has_others = true;
    let fakes: Vec<Arc<Fake>> = fakes.into_iter().map(Arc::new).collect();
    let joined = joined(&fakes);
    assert!(!joined.report_damage(5..12));
    assert!(joined.report_damage(4..9));
    let asked: Vec<Vec<Asked>> = fakes.iter().map(|fake| fake.asked()).collect();
    assert_eq!(
        asked,
        [
            vec![Asked::Damage(4..5)],
            vec![],
            vec![Asked::Damage(0..3), Asked::Damage(0..3)],
            vec![Asked::Damage(0..4), Asked::Damage(0..1)]
        ]
    );
}

#[tokio::test]
async fn nothing_comes_after_an_error() {
    let mut fakes: Vec<Fake> = fakes().into_iter().flat_map(Arc::into_inner).collect();
    fakes[2].fails_after = Some(2);
    let fakes: Vec<Arc<Fake>> = fakes.into_iter().map(Arc::new).collect();
    let joined = joined(&fakes);
    let mut stream = joined.stream(4..12, Urgency::Demand);
    assert_eq!(stream.next().await.unwrap().unwrap(), ALL[4..5]);
    assert_eq!(stream.next().await.unwrap().unwrap(), ALL[5..7]);
    let error = stream.next().await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
    assert_eq!(stream.next().await.unwrap(), None);
    assert!(fakes[3].asked().is_empty());
}

#[tokio::test]
async fn what_is_beyond_its_end_is_refused() {
    let fakes = fakes();
    let joined = joined(&fakes);
    let (backwards, beyond) = (Range { start: 7, end: 6 }, 3..13);
    for range in [beyond, backwards, 13..13, u64::MAX - 1..u64::MAX] {
        let read = joined.read(range.clone(), Urgency::Demand).await;
        assert!(matches!(read, Err(Error::TooLarge { .. })), "{range:?}");
        let mut stream = joined.stream(range.clone(), Urgency::Demand);
        let streamed = stream.next().await;
        assert!(matches!(streamed, Err(Error::TooLarge { .. })), "{range:?}");
        assert_eq!(stream.next().await.unwrap(), None);
    }
    assert!(fakes.iter().all(|fake| fake.asked().is_empty()));
    let nothing = Joined::new(Digest::of(b""), Vec::new()).unwrap();
    assert_eq!(nothing.size(), 0);
    assert_eq!(nothing.read(0..0, Urgency::Demand).await.unwrap().len(), 0);
    assert!(nothing.pace().is_none() && nothing.last_progress().is_none());
}

#[test]
fn what_is_known_of_one_is_known_of_all() {
    let now = Instant::now();
    let pace = Pace {
        round_trip: Duration::from_millis(1),
        bytes_per_second: 1,
    };
    let mut fakes: Vec<Fake> = fakes().into_iter().flat_map(Arc::into_inner).collect();
    fakes[2].pace = Some(pace);
    fakes[0].progress = Some(now);
    fakes[3].progress = Some(now + Duration::from_secs(1));
    let fakes: Vec<Arc<Fake>> = fakes.into_iter().map(Arc::new).collect();
    let joined = joined(&fakes);
    assert_eq!(joined.pace(), Some(pace));
    assert_eq!(joined.last_progress(), Some(now + Duration::from_secs(1)));
}
