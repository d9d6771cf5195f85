//! The dashboard and the alerts: that they ask for metrics that there are, in the way that their type wants it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::text;

/// Every metric that a daemon answers, with its type, from the pages that tests compare with the daemons.
fn metrics() -> BTreeMap<String, String> {
    let mut metrics = BTreeMap::new();
    for page in ["docs/metrics.md", "docs/lazy-metrics.md"] {
        for line in text(page).lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if let ["", name, kind, ..] = cells[..]
                && name.starts_with("`pontoon_")
            {
                metrics.insert(name.trim_matches('`').to_owned(), kind.to_owned());
            }
        }
    }
    assert!(metrics.len() > 30, "{metrics:?}");
    metrics
}

/// The series that an expression asks for: how OpenMetrics calls them.
fn series(expression: &str) -> BTreeSet<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = expression.split(|letter: char| !is_part(letter));
    words.filter(|word| word.starts_with("pontoon_")).collect()
}

/// What is wrong with an expression.
fn faults(expression: &str, metrics: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for name in series(expression) {
        let kind_of = |suffix: &str| {
            let metric = name.strip_suffix(suffix)?;
            metrics.get(metric).map(String::as_str)
        };
        let is_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| kind_of(suffix) == Some("histogram"));
        let grows = kind_of("_total") == Some("counter") || is_histogram;
        let stands = kind_of("") == Some("gauge") || kind_of("_info") == Some("info");
        if !grows && !stands {
            faults.push(format!("there is no series {name}"));
            continue;
        }
        // Somewhere in it each name stands once with what makes a rate of it, or without.
        for (at, _) in expression.match_indices(name) {
            let before = &expression[..at];
            let of_rate = ["rate(", "increase("].iter().any(|f| before.ends_with(f));
            if of_rate != grows {
                faults.push(format!("{name} and a rate do not go together"));
            }
        }
    }
    faults
}

#[test]
fn the_alerts_are_about_metrics_that_there_are_and_the_runbook_has_them_all() {
    let metrics = metrics();
    let alerts: Value = serde_saphyr::from_str(&text("dist/prometheus/alerts.yaml")).unwrap();
    let runbook = text("docs/runbook.md");
    let mut told = BTreeSet::new();
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        let expression = rule["expr"].as_str().unwrap();
        assert_eq!(faults(expression, &metrics), [""; 0], "{name}");
        assert!(["page", "ticket"].contains(&rule["labels"]["severity"].as_str().unwrap()));
        let link = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], *link);
        assert!(rule["annotations"]["summary"].is_string());
        let section = runbook.split(&format!("\n## {name}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("no section for {name}"));
        let section = section.split("\n## ").next().unwrap();
        for part in ["**It means**", "**Look at**", "**Do**"] {
            assert!(section.contains(part), "{name}: no {part}");
        }
        assert!(told.insert(name.to_owned()), "{name} twice");
    }
    let sections = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let sections: BTreeSet<String> = sections.map(str::to_owned).collect();
    assert_eq!(sections, told);
    for name in series(&runbook) {
        assert!(metrics.contains_key(name), "the runbook names {name}");
    }
}

#[test]
fn the_dashboard_is_about_metrics_that_there_are() {
    let metrics = metrics();
    let dashboard: Value = serde_json::from_str(&text("dist/grafana/pontoon.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut asked, mut places, mut ids) = (String::new(), Vec::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: its id is another's"
        );
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let place = [at("x"), at("y"), at("x") + at("w"), at("y") + at("h")];
        let overlaps = |other: &[u64; 4]| {
            place[0] < other[2] && other[0] < place[2] && place[1] < other[3] && other[1] < place[3]
        };
        assert!(place[2] <= 24 && !places.iter().any(overlaps), "{title}");
        places.push(place);
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(faults(expression, &metrics), [""; 0], "{title}");
            assert!(expression.contains("instance=~\"$instance\""), "{title}");
            asked.push_str(expression);
        }
    }
    // What is counted and shown nowhere would be missed when it is needed.
    let shown: BTreeSet<&str> = series(&asked);
    let is_shown = |metric: &str| shown.iter().any(|name| name.starts_with(metric));
    let hidden = [
        "pontoon_lazy_taken_chunks",
        "pontoon_lazy_inflated_members",
        "pontoon_cache_syncs",
    ];
    for metric in metrics
        .keys()
        .filter(|metric| !hidden.contains(&metric.as_str()))
    {
        let is_alert = metric == "pontoon_cache_thread_panics";
        assert!(is_alert || is_shown(metric), "{metric} is shown nowhere");
    }
}

#[test]
fn what_would_be_wrong_with_an_expression_is_found() {
    let metrics = metrics();
    let faulty = |expression| !faults(expression, &metrics).is_empty();
    assert!(!faulty("rate(pontoon_lazy_reads_total{a=\"b\"}[5m]) > 0"));
    assert!(!faulty("pontoon_cache_bytes + sum(pontoon_build_info)"));
    assert!(faulty("rate(pontoon_lazy_reads[5m])"), "without _total");
    assert!(faulty("pontoon_lazy_reads_total > 5"), "without a rate");
    assert!(
        faulty("rate(pontoon_cache_bytes[5m])"),
        "the rate of a gauge"
    );
    assert!(faulty("pontoon_nonsense"));
}
