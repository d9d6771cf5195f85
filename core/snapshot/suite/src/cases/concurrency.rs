//! Many callers at once.

use std::sync::Barrier;
use std::thread;

use pontoon_snapshot::{Class, Error, LabelChange, Labels, Result};

use crate::stage::{Stage, key};
use crate::tree;

const CALLERS: usize = 8;

/// Lets all callers begin at the same moment, and collects what they were answered.
fn together<T: Send>(call: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let ready = Barrier::new(CALLERS);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let (ready, call) = (&ready, &call);
                scope.spawn(move || {
                    ready.wait();
                    call(number)
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    })
}

/// Panics unless exactly one answer is good and the others are errors of `class`.
#[track_caller]
fn assert_one_won<T>(answers: Vec<Result<T>>, class: Class) {
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    let classes: Vec<Class> = lost
        .into_iter()
        .filter_map(Result::err)
        .map(|e| e.class())
        .collect();
    assert_eq!(classes, vec![class; CALLERS - 1]);
}

/// Callers with keys of their own do not notice each other.
pub fn independent_callers(stage: &Stage) {
    stage.layer("base", "", |at| tree::file(at.join("base"), "base", 0o644));
    together(|caller| {
        for round in 0..10 {
            let name = |what: &str| format!("{what}-{caller}-{round}");
            stage.prepare(&name("active"), "base");
            stage.commit(&name("layer"), &name("active"));
            stage.view(&name("view"), &name("layer"));
            assert_eq!(stage.stat(&name("view")).parent, Some(key(&name("layer"))));
            stage.remove(&name("view"));
            if round % 2 == 0 {
                stage.remove(&name("layer"));
            }
        }
    });
    assert_eq!(stage.found(&[]).len(), 1 + CALLERS * 5);
    assert_eq!(stage.directories(), 1 + CALLERS * 5);
}

/// Of several that prepare one key one gets it.
pub fn one_key_many_callers(stage: &Stage) {
    for round in 0..10 {
        let name = key(&format!("k-{round}"));
        let answers = together(|_| stage.sn().prepare(&name, None, Labels::default()));
        assert_one_won(answers, Class::AlreadyExists);
    }
    assert_eq!(stage.found(&[]).len(), 10);
    assert_eq!(stage.directories(), 10, "the losers left directories");
}

/// Of several that commit to one name one gets it; the others keep their active snapshots.
pub fn one_name_many_callers(stage: &Stage) {
    for caller in 0..CALLERS {
        stage.prepare(&format!("a-{caller}"), "");
    }
    let name = key("name");
    let answers = together(|caller| {
        stage
            .sn()
            .commit(&name, &key(&format!("a-{caller}")), None, Labels::default())
    });
    assert_one_won(answers, Class::AlreadyExists);
    assert_eq!(stage.found(&["kind==active"]).len(), CALLERS - 1);
    assert_eq!(stage.found(&["kind==committed"]), ["name"]);
}

/// Of several that remove one snapshot one has removed it.
pub fn one_removal_many_callers(stage: &Stage) {
    for _ in 0..10 {
        stage.prepare("k", "");
        let answers = together(|_| stage.sn().remove(&key("k")));
        assert_one_won(answers, Class::NotFound);
    }
    assert_eq!(stage.directories(), 0);
}

/// Either the child is there, and so is its parent, or neither is.
pub fn parent_removed_under_child(stage: &Stage) {
    for round in 0..10 {
        let (parent, child) = (format!("parent-{round}"), format!("child-{round}"));
        stage.empty_layer(&parent, "");
        let (parent, child) = (key(&parent), key(&child));
        let answers = together(|caller| {
            if caller == 0 {
                stage.sn().remove(&parent)
            } else if caller == 1 {
                stage
                    .sn()
                    .prepare(&child, Some(&parent), Labels::default())
                    .map(drop)
            } else {
                Ok(())
            }
        });
        let classes: Vec<_> = answers[..2]
            .iter()
            .map(|answer| answer.as_ref().err().map(Error::class))
            .collect();
        match classes[..] {
            [Some(Class::FailedPrecondition), None] => {
                stage.stat(parent.as_str());
                stage.mount(&stage.sn().mounts(&child).unwrap());
            }
            [None, Some(Class::NotFound)] => {}
            _ => panic!("remove and prepare answered {answers:?}"),
        }
    }
}

/// No caller's label is lost under another's.
pub fn labels_by_many_callers(stage: &Stage) {
    stage.prepare("k", "");
    together(|caller| {
        for round in 0..10 {
            let label = (format!("l-{caller}-{round}"), Some("v".to_owned()));
            let change = LabelChange::Set([label].into());
            stage.sn().update(&key("k"), change).unwrap();
        }
    });
    assert_eq!(stage.stat("k").labels.iter().count(), CALLERS * 10);
}

/// Cleanup never takes what another caller is just making.
pub fn cleanup_beside_callers(stage: &Stage) {
    stage.layer("base", "", |at| tree::file(at.join("base"), "base", 0o644));
    together(|caller| {
        if caller < 2 {
            for _ in 0..60 {
                stage.sn().cleanup().unwrap();
            }
            return;
        }
        for round in 0..15 {
            let name = format!("k-{caller}-{round}");
            let mounted = stage.mount(&stage.prepare(&name, "base"));
            tree::file(mounted.path().join("mine"), &name, 0o644);
            drop(mounted);
            if round % 3 == 0 {
                stage.remove(&name);
            } else {
                stage.commit(&format!("{name}-layer"), &name);
            }
        }
    });
    assert_eq!(stage.directories(), 1 + (CALLERS - 2) * 10);
    for name in stage.found(&["kind==committed,name!=base"]) {
        let view = stage.mount(&stage.view("view", &name));
        let mine = std::fs::read_to_string(view.path().join("mine")).unwrap();
        assert_eq!(format!("{mine}-layer"), name);
        drop(view);
        stage.remove("view");
    }
}
