//! One node that plans, in a world of which every step is known.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Chunks that are all alike.
#[derive(Debug)]
struct Even {
    chunks: usize,
    length: u32,
}

impl Layout for Even {
    fn len(&self) -> usize {
        self.chunks
    }

    fn place(&self, index: usize) -> Option<(u64, u32)> {
        (index < self.chunks).then_some((index as u64 * u64::from(self.length), self.length))
    }
}

struct World {
    swarm: Swarm<u32>,
    standing: Standing<u32>,
    now: Instant,
}

impl World {
    /// This node is called to fetch nothing, if anybody else is there.
    fn new(chunks: usize, length: u32) -> World {
        let layout = Arc::new(Even { chunks, length });
        let id = SwarmId { layer: 1, me: None };
        World {
            swarm: Swarm::new(layout, id),
            standing: Standing::new(Settings::default(), 1),
            now: Instant::now(),
        }
    }

    fn join(&mut self, peer: u32, chunks: Range<usize>, active: bool) {
        let member = Member {
            peer,
            print: u64::from(peer),
            tier: Tier::Other,
        };
        self.swarm.join(&self.standing, self.now, member);
        self.tell(peer, chunks, active);
    }

    fn tell(&mut self, peer: u32, chunks: Range<usize>, active: bool) {
        let mut bitmap = Bitmap::new(self.swarm.layout_len());
        bitmap.set(chunks);
        let told = Told {
            generation: 1,
            complete: false,
            chunks: bitmap,
            active,
        };
        self.swarm.on_have(self.now, peer, told);
    }

    fn want(&mut self, chunks: Range<usize>, class: Class) -> Vec<Step<u32>> {
        self.swarm.want(self.now, chunks, class);
        self.plan()
    }

    fn plan(&mut self) -> Vec<Step<u32>> {
        self.swarm.plan(&mut self.standing, self.now)
    }

    fn after(&mut self, time: Duration) -> Vec<Step<u32>> {
        self.now += time;
        self.plan()
    }

    fn end(&mut self, ask: &Ask<u32>, result: Result<(), Failure>) -> Option<Ban<u32>> {
        let ended = (&mut self.standing, self.now);
        self.swarm.on_end(ended.0, ended.1, ask.id, result)
    }

    fn bring(&mut self, ask: &Ask<u32>) {
        for chunk in ask.chunks.clone() {
            self.swarm
                .on_chunk(&mut self.standing, self.now, ask.id, chunk);
        }
        assert_eq!(self.end(ask, Ok(())), None);
    }
}

fn asks(steps: &[Step<u32>]) -> Vec<Ask<u32>> {
    let asks = steps.iter().filter_map(|step| match step {
        Step::Ask(ask) => Some(ask.clone()),
        _ => None,
    });
    asks.collect()
}

fn only(steps: &[Step<u32>]) -> Ask<u32> {
    match steps {
        [Step::Ask(ask)] => ask.clone(),
        _ => panic!("{steps:?}"),
    }
}

#[test]
fn without_others_it_is_the_registry_at_once() {
    let mut world = World::new(100, 65_536);
    assert_eq!(world.want(3..9, Class::Demand), [Step::Registry(3..9)]);
    assert_eq!((world.swarm.wanted(), world.swarm.next()), (0, None));
    // With others that have nothing and get nothing too.
    world.join(1, 0..0, false);
    assert_eq!(world.want(3..9, Class::Demand), [Step::Registry(3..9)]);
    // What nobody waits for waits until the others have been looked at.
    assert_eq!(world.want(3..9, Class::Prefetch), []);
    let wait = world
        .swarm
        .may_fetch(&world.standing, world.now, 3..9, Class::Prefetch);
    assert_eq!(wait, ms(400));
    assert_eq!(world.after(ms(399)), []);
    assert_eq!(world.after(ms(1)), [Step::Registry(3..9)]);
}

#[test]
fn who_has_it_is_asked_for_as_much_as_belongs_together() {
    let mut world = World::new(100, 65_536);
    world.join(1, 10..30, false);
    let steps = world.want(8..40, Class::Demand);
    let asked = asks(&steps);
    // 16 chunks are a MiB.
    let ranges: Vec<Range<usize>> = asked.iter().map(|ask| ask.chunks.clone()).collect();
    assert_eq!(ranges, [10..26, 26..30]);
    assert!(steps.contains(&Step::Registry(8..10)) && steps.contains(&Step::Registry(30..40)));
    asked.iter().for_each(|ask| world.bring(ask));
    assert_eq!((world.swarm.wanted(), world.swarm.underway()), (0, 0));
    assert_eq!(world.standing.tallies().chunks, 20);
    assert_eq!(world.standing.speeds().outstanding_bytes(1), 0);
}

#[test]
fn a_second_one_is_asked_when_the_first_takes_long_and_the_loser_is_given_up() {
    let mut world = World::new(100, 65_536);
    world.join(1, 0..100, false);
    world.join(2, 0..100, false);
    let first = only(&world.want(5..6, Class::Demand));
    assert_eq!(world.after(ms(49)), []);
    assert_eq!(world.swarm.next(), Some(world.now + ms(1)));
    let second = only(&world.after(ms(1)));
    assert!(second.is_hedge && second.peer != first.peer && second.chunks == (5..6));
    // Then the registry.
    assert_eq!(world.after(ms(250)), [Step::Registry(5..6)]);
    // And the second is first.
    world.bring(&second);
    assert_eq!(world.plan(), [Step::Cancel(first.id)]);
    assert_eq!((world.swarm.wanted(), world.swarm.underway()), (0, 0));
    assert_eq!(world.standing.speeds().asks(first.peer), 0);
    assert_eq!(world.standing.tallies().wasted_bytes, 65_536);
}

#[test]
fn without_a_budget_the_registry_is_asked_at_last() {
    let mut world = World::new(1000, 65_536);
    world.join(1, 0..1000, false);
    // Eight may be late, then the budget is used up.
    let mut given_over = 0;
    for chunk in 0..12 {
        let ask = only(&world.want(chunk..chunk + 1, Class::Demand));
        given_over += usize::from(!world.after(ms(301)).is_empty());
        let steps = world.after(ms(700));
        assert!(steps.is_empty() || steps == [Step::Registry(chunk..chunk + 1)]);
        given_over += usize::from(!steps.is_empty());
        world.end(&ask, Ok(()));
        world.standing.forget(1);
    }
    assert_eq!(given_over, 12);
    assert_eq!(world.standing.hedge().counts().0, 8);
}

#[test]
fn who_sends_little_by_little_keeps_nobody_from_the_registry() {
    let mut world = World::new(256, 4096);
    world.join(1, 0..256, false);
    let ask = only(&world.want(0..256, Class::Demand));
    for chunk in 0..22 {
        assert_eq!(world.after(ms(90)), []);
        let World {
            swarm,
            standing,
            now,
        } = &mut world;
        swarm.on_chunk(standing, *now, ask.id, chunk);
    }
    assert_eq!(world.after(ms(90)), [Step::Registry(22..256)]);
}

#[test]
fn what_is_about_to_come_to_others_is_waited_for() {
    let mut world = World::new(256, 65_536);
    world.join(1, 0..0, true);
    world.join(2, 0..0, true);
    assert_eq!(world.want(7..8, Class::Demand), []);
    assert_eq!(world.swarm.next(), Some(world.now + ms(150)));
    let later = world
        .swarm
        .may_fetch(&world.standing, world.now + ms(50), 7..8, Class::Demand);
    assert_eq!(later, ms(100));
    world.now += ms(60);
    world.tell(2, 0..20, true);
    assert_eq!(only(&world.plan()).peer, 2);
    // And if it does not come, not for long.
    assert_eq!(world.want(30..31, Class::Demand), []);
    assert_eq!(world.after(ms(149)), []);
    assert_eq!(world.after(ms(1)), [Step::Registry(30..31)]);
}

#[test]
fn the_first_too_looks_at_others_before_it_asks_the_registry() {
    let mut world = World::new(256, 65_536);
    let layout = Arc::new(Even {
        chunks: 256,
        length: 65_536,
    });
    // One that is called before all others.
    let me = (100..).find(|me| rank(1, 0, *me, 1..50) == Rank::First);
    world.swarm = Swarm::new(layout, SwarmId { layer: 1, me });
    for peer in 1..50 {
        let member = Member {
            peer,
            print: u64::from(peer),
            tier: Tier::Other,
        };
        world.swarm.join(&world.standing, world.now, member);
    }
    assert_eq!(world.want(3..4, Class::Demand), []);
    assert_eq!(world.swarm.next(), Some(world.now + ms(100)));
    world.now += ms(20);
    world.tell(7, 0..10, true);
    assert_eq!(only(&world.plan()).peer, 7);
    // What nobody told of by then is for this node to fetch.
    assert_eq!(world.want(13..14, Class::Demand), []);
    assert_eq!(world.after(ms(80)), [Step::Registry(13..14)]);
    assert_eq!(world.want(14..15, Class::Demand), [Step::Registry(14..15)]);
}

#[test]
fn who_is_called_and_was_never_asked_is_waited_for() {
    let mut world = World::new(256, 65_536);
    for peer in 1..50 {
        let member = Member {
            peer,
            print: u64::from(peer),
            tier: Tier::Other,
        };
        world.swarm.join(&world.standing, world.now, member);
    }
    // Long after they joined.
    world.now += Duration::from_secs(60);
    assert_eq!(world.want(3..4, Class::Demand), []);
    let watched = world.swarm.watch(&mut world.standing, world.now, 4);
    let called = origin::called(1, 0, (1..50_u32).map(|peer| (peer, u64::from(peer))));
    assert!(called.iter().all(|peer| watched.contains(peer)));
    // One that was not watched before is waited for until it has had time to answer.
    assert_eq!(world.plan(), []);
    assert_eq!(world.after(ms(100)), []);
    // They tell that they have nothing and get nothing.
    for peer in called {
        world.tell(peer, 0..0, false);
    }
    assert_eq!(world.plan(), [Step::Registry(3..4)]);
}

#[test]
fn who_cannot_be_asked_is_not_waited_for() {
    let mut world = World::new(256, 65_536);
    world.join(1, 0..0, true);
    world.join(2, 0..0, true);
    world.now += Duration::from_secs(5);
    world.swarm.watch(&mut world.standing, world.now, 4);
    for peer in [1, 2] {
        let failed = (&mut world.standing, world.now, peer, Failure::Broken);
        world
            .swarm
            .on_have_failed(failed.0, failed.1, failed.2, failed.3);
    }
    assert_eq!(world.want(3..4, Class::Demand), [Step::Registry(3..4)]);
}

#[test]
fn each_extent_is_fetched_by_its_first_at_once() {
    let mut first = BTreeSet::new();
    let nodes = [11, 22, 33, 44];
    for me in nodes {
        let mut world = World::new(512, 65_536);
        let layout = Arc::new(Even {
            chunks: 512,
            length: 65_536,
        });
        let me_print = Some(u64::from(me));
        world.swarm = Swarm::new(
            layout,
            SwarmId {
                layer: 1,
                me: me_print,
            },
        );
        for peer in nodes.into_iter().filter(|peer| *peer != me) {
            world.join(peer, 0..0, true);
        }
        for step in world.want(0..512, Class::Demand) {
            let Step::Registry(chunks) = step else {
                panic!("{step:?}");
            };
            // 128 chunks are an extent.
            for chunk in chunks {
                assert!(first.insert(chunk), "{chunk} twice");
            }
        }
    }
    assert_eq!(first.len(), 512);
}

#[test]
fn wrong_bytes_ban_and_others_are_asked() {
    let mut world = World::new(100, 65_536);
    world.join(1, 0..100, false);
    world.join(2, 0..100, false);
    let ask = only(&world.want(5..6, Class::Demand));
    let ban = world.end(&ask, Err(Failure::Wrong)).unwrap();
    assert_eq!((ban.peer, ban.time), (ask.peer, Duration::from_secs(600)));
    let again = only(&world.plan());
    assert_ne!(again.peer, ask.peer);
    world.end(&again, Err(Failure::Broken));
    assert_eq!(world.plan(), [Step::Registry(5..6)]);
}

#[test]
fn who_is_busy_is_asked_again_if_it_is_worth_while() {
    let mut world = World::new(100, 65_536);
    world.join(1, 0..100, false);
    let ask = only(&world.want(5..6, Class::Demand));
    world.swarm.want(world.now, 5..6, Class::Demand);
    assert_eq!(world.end(&ask, Err(Failure::Busy(ms(50)))), None);
    assert_eq!(world.plan(), []);
    let again = only(&world.after(ms(51)));
    // That would be later than anybody is waited for.
    world.end(&again, Err(Failure::Busy(ms(500))));
    assert_eq!(world.plan(), [Step::Registry(5..6)]);
}

#[test]
fn a_lie_is_believed_once() {
    let mut world = World::new(100, 65_536);
    world.join(1, 0..100, false);
    let ask = only(&world.want(5..6, Class::Demand));
    world.now += ms(2);
    assert_eq!(world.end(&ask, Err(Failure::Missing)), None);
    assert_eq!(world.plan(), [Step::Registry(5..6)]);
    let mut bans = Vec::new();
    for _ in 0..4 {
        world.now += Duration::from_secs(61);
        world.tell(1, 0..100, false);
        let ask = only(&world.want(5..6, Class::Demand));
        world.now += ms(2);
        bans.extend(world.end(&ask, Err(Failure::Missing)));
        world.plan();
    }
    assert_eq!(bans.len(), 1);
}

#[test]
fn four_bans_in_a_minute_leave_all_to_the_registry() {
    let mut world = World::new(100, 65_536);
    (1..9).for_each(|peer| world.join(peer, 0..100, false));
    let mut steps = world.want(5..6, Class::Demand);
    for _ in 0..4 {
        let ask = only(&steps);
        assert!(world.end(&ask, Err(Failure::Wrong)).is_some());
        steps = world.plan();
    }
    assert_eq!(steps, [Step::Registry(5..6)]);
    assert_eq!(world.want(7..8, Class::Prefetch), [Step::Registry(7..8)]);
    world.now = world.standing.off_until(world.now).unwrap();
    only(&world.want(8..9, Class::Demand));
}

#[test]
fn what_nobody_waits_for_takes_few_places_and_rare_chunks_first() {
    let mut world = World::new(640, 65_536);
    (1..7).for_each(|peer| world.join(peer, 0..320, false));
    world.join(7, 320..640, false);
    let steps = world.want(0..640, Class::Prefetch);
    let asked = asks(&steps);
    assert!(asked.len() <= 8 && asked.len() >= 4, "{asked:?}");
    assert_eq!(asked.len(), steps.len());
    let mut load = BTreeMap::new();
    for ask in &asked {
        *load.entry(ask.peer).or_insert(0) += 1;
        assert!(ask.chunks.len() as u64 * 65_536 <= 4 * MIB);
    }
    assert!(load.values().all(|count| *count <= 2));
    // Demand goes beside it.
    assert_eq!(asks(&world.want(639..640, Class::Demand)).len(), 1);
    // What is wanted urgently now, but under way, is not asked for twice at once.
    let busy = asked[0].chunks.start;
    assert_eq!(world.want(busy..busy + 1, Class::Demand), []);
    assert!(!world.after(ms(50)).is_empty());
}

#[test]
fn what_comes_from_elsewhere_gives_up_what_is_under_way() {
    let mut world = World::new(100, 65_536);
    world.join(1, 0..100, false);
    let ask = only(&world.want(5..7, Class::Demand));
    world.swarm.landed(&mut world.standing, world.now, 5..6);
    assert_eq!(world.plan(), []);
    world.swarm.unwant(&mut world.standing, world.now, 6..7);
    assert_eq!(world.plan(), [Step::Cancel(ask.id)]);
    assert_eq!(world.standing.speeds().outstanding_bytes(1), 0);
    assert_eq!(world.end(&ask, Ok(())), None);
}

#[test]
fn those_who_are_to_fetch_what_is_waited_for_are_watched() {
    let mut world = World::new(256, 65_536);
    (1..60).for_each(|peer| world.join(peer, 0..0, true));
    world.want(0..1, Class::Demand);
    let watched = world.swarm.watch(&mut world.standing, world.now, 8);
    assert_eq!(watched.len(), 8);
    let prints = (1..60_u32).map(|peer| (peer, u64::from(peer)));
    let called = origin::called(1, 0, prints);
    assert_eq!(
        watched[..2].iter().collect::<BTreeSet<_>>(),
        called.iter().collect()
    );
    // Who is watched stays watched.
    let again = world.swarm.watch(&mut world.standing, world.now, 8);
    let same = |watched: Vec<u32>| watched.into_iter().collect::<BTreeSet<u32>>();
    assert_eq!(same(again), same(watched));
}

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Brings,
    BringsHalf,
    Fails(u8),
    Hangs,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Brings),
        1 => Just(Fate::BringsHalf),
        2 => (0_u8..7).prop_map(Fate::Fails),
        1 => Just(Fate::Hangs),
    ]
}

fn failure(number: u8) -> Failure {
    match number {
        0 => Failure::Busy(ms(30)),
        1 => Failure::Missing,
        2 => Failure::Refused,
        3 => Failure::Broken,
        4 => Failure::Cut,
        5 => Failure::Slow,
        _ => Failure::Wrong,
    }
}

proptest! {
    /// Whatever others do: everything that is wanted comes or is given over to the registry within bounds, no more than may be
    /// is under way, and at the end nothing is left over.
    #[test]
    fn everything_is_answered(
        peers in 1_u32..6,
        holdings in prop::collection::vec((0_usize..200, 1_usize..100), 6),
        wants in prop::collection::vec((0_usize..200, 1_usize..40, any::<bool>()), 1..12),
        fates in prop::collection::vec(fate(), 1..60),
        length in 1_u32..3_000_000,
    ) {
        let mut world = World::new(200, length);
        for peer in 0..peers {
            let (start, count) = holdings[peer as usize];
            world.join(peer, start..start + count, peer % 2 == 0);
        }
        let mut open: BTreeMap<usize, Instant> = BTreeMap::new();
        let mut running: BTreeMap<AskId, (Ask<u32>, Fate)> = BTreeMap::new();
        let (mut fates, mut wants) = (fates.into_iter().cycle(), wants.into_iter());
        for _ in 0..4000 {
            if let Some((start, count, urgent)) = wants.next() {
                let class = if urgent { Class::Demand } else { Class::Prefetch };
                let end = (start + count).min(200);
                world.swarm.want(world.now, start..end, class);
                (start..end).for_each(|chunk| { open.insert(chunk, world.now); });
            }
            for step in world.plan() {
                match step {
                    Step::Ask(ask) => {
                        prop_assert!(!ask.chunks.is_empty() && ask.chunks.end <= 200);
                        prop_assert!(running.values().filter(|(other, _)| other.peer == ask.peer).count() < 6);
                        running.insert(ask.id, (ask, fates.next().unwrap()));
                    }
                    // It may be over already.
                    Step::Cancel(id) => drop(running.remove(&id)),
                    Step::Registry(chunks) => {
                        for chunk in chunks.clone() {
                            prop_assert!(open.remove(&chunk).is_some(), "{} twice", chunk);
                        }
                        world.swarm.landed(&mut world.standing, world.now, chunks);
                    }
                }
            }
            let waited = open.values().map(|since| world.now - *since).max().unwrap_or_default();
            prop_assert!(waited < Duration::from_secs(300), "{waited:?} {:?}", world.swarm);
            let now = world.now;
            if running.is_empty() && open.is_empty() && wants.len() == 0 {
                break;
            }
            // One thing happens.
            let next = running.iter().next().map(|(_, (ask, fate))| (ask.clone(), *fate));
            match next {
                Some((ask, Fate::Hangs)) if world.swarm.next().is_none() => {
                    running.remove(&ask.id);
                    world.end(&ask, Err(Failure::Slow));
                }
                Some((ask, fate @ (Fate::Brings | Fate::BringsHalf))) => {
                    running.remove(&ask.id);
                    let whole = ask.chunks.len();
                    let count = if matches!(fate, Fate::Brings) { whole } else { whole / 2 };
                    for chunk in ask.chunks.clone().take(count) {
                        world.swarm.on_chunk(&mut world.standing, now, ask.id, chunk);
                        open.remove(&chunk);
                    }
                    world.end(&ask, Ok(()));
                }
                Some((ask, Fate::Fails(number))) => {
                    running.remove(&ask.id);
                    world.end(&ask, Err(failure(number)));
                }
                // Something that hangs fails some time, as its connection does.
                Some((ask, Fate::Hangs)) if world.standing.dice.below(20) == 0 => {
                    running.remove(&ask.id);
                    world.end(&ask, Err(Failure::Slow));
                }
                Some((_, Fate::Hangs)) | None => {}
            }
            world.now = world.swarm.next().map_or(now + ms(1), |next| next.max(now + ms(1)));
        }
        prop_assert!(open.is_empty(), "{:?} {:?}", open, world.swarm);
        prop_assert_eq!(world.swarm.wanted(), 0);
        prop_assert_eq!(world.swarm.underway(), 0);
        for peer in 0..peers {
            prop_assert_eq!(world.standing.speeds().outstanding_bytes(peer), 0);
            prop_assert_eq!(world.standing.speeds().asks(peer), 0);
        }
        prop_assert_eq!(world.standing.room(Class::Demand), 64);
        prop_assert_eq!(world.standing.room(Class::Prefetch), 8);
    }
}
