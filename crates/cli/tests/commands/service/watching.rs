//! The alerts and the dashboard in `deploy/`: promtool tries the alerts, and both name only figures and labels that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use enfold_server::metrics::{Kind, METRICS};
use serde_json::Value;

use super::organisations;
use crate::guides::{bash, blocks};

const GUIDE: &str = include_str!("../../../../../docs/guides/watching.md");
const RULES: &str = include_str!("../../../../../deploy/prometheus/enfold.rules.yml");
const DASHBOARD: &str = include_str!("../../../../../deploy/grafana/enfold.json");

fn promtool(args: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus");
    let ran = Command::new("promtool").args(args).current_dir(folder).output().expect("promtool is installed");
    let said = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_takes_the_alerts_and_finds_them_fire_where_they_must_and_nowhere_else() {
    promtool(&["check", "rules", "enfold.rules.yml"]);
    promtool(&["test", "rules", "enfold.test.yml"]);
    let tests = include_str!("../../../../../deploy/prometheus/enfold.test.yml");
    for alert in RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is not tried");
    }
}

/// The names that a metric has in a query, and the labels of each.
fn known() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut known = BTreeMap::new();
    for metric in METRICS {
        let labels: BTreeSet<&str> = metric.labels.iter().copied().collect();
        let name = format!("enfold_{}", metric.name);
        if metric.kind == Kind::Histogram {
            let with_bound = labels.iter().copied().chain(["le"]).collect();
            known.insert(format!("{name}_bucket"), with_bound);
            known.insert(format!("{name}_sum"), labels.clone());
            known.insert(format!("{name}_count"), labels);
        } else {
            known.insert(name, labels);
        }
    }
    known
}

/// Every word of a query with what stands behind it.
fn words(query: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        words.push((&word[..end], &word[end..]));
        rest = &word[end..];
    }
    words
}

/// What is wrong with the names in a query.
fn wrong(query: &str, known: &BTreeMap<String, BTreeSet<&'static str>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for (name, behind) in words(query).into_iter().filter(|(word, _)| word.starts_with("enfold_")) {
        let Some(labels) = known.get(name) else {
            wrong.push(format!("there is no `{name}`"));
            continue;
        };
        used.extend(labels);
        let matchers = behind.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let matched = matchers.split(',').filter_map(|matcher| matcher.split(['=', '!']).next()).map(str::trim);
        wrong.extend(
            matched
                .filter(|label| !label.is_empty() && !labels.contains(label))
                .map(|label| format!("`{name}` has no label `{label}`")),
        );
    }
    for part in ["by (", "on ("].iter().flat_map(|word| query.split(word).skip(1)) {
        let labels = part.split(')').next().unwrap_or_default().split(',').map(str::trim);
        wrong.extend(
            labels.filter(|label| !used.contains(label)).map(|label| format!("nothing here has a label `{label}`")),
        );
    }
    wrong
}

/// Queries are what is indented below `expr`, on its line or in a block.
fn rules() -> Vec<String> {
    let mut queries: Vec<String> = Vec::new();
    let mut inside = false;
    for line in RULES.lines() {
        if let Some(query) = line.trim_start().strip_prefix("expr:") {
            queries.push(query.trim().trim_start_matches('|').to_owned());
            inside = true;
        } else if inside && line.starts_with("          ") {
            queries.last_mut().expect("one was begun").push_str(line);
        } else {
            inside = false;
        }
    }
    queries
}

fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    dashboard["panels"].as_array().expect("panels").clone()
}

#[test]
fn alerts_and_dashboard_name_figures_and_labels_that_exist() {
    let known = known();
    assert_eq!(rules().len(), RULES.matches("- alert:").count());
    let targets: Vec<Value> =
        panels().iter().filter_map(|panel| panel["targets"].as_array()).flatten().cloned().collect();
    assert!(targets.len() > 20, "{}", targets.len());
    for target in &targets {
        let (query, legend) =
            (target["expr"].as_str().expect("a query"), target["legendFormat"].as_str().expect("a legend"));
        let kept: Vec<&str> = query
            .split("by (")
            .skip(1)
            .filter_map(|part| part.split(')').next())
            .flat_map(|labels| labels.split(','))
            .map(str::trim)
            .collect();
        for label in legend.split("{{").skip(1).filter_map(|part| part.split("}}").next()) {
            // What Prometheus itself adds is there where nothing is summed.
            assert!(kept.contains(&label) || (label == "instance" && kept.is_empty()), "`{legend}` of {query}");
        }
    }
    let of_panels = targets.iter().map(|target| target["expr"].as_str().expect("a query").to_owned());
    for query in rules().into_iter().chain(of_panels) {
        assert!(query.contains("enfold_"), "{query}");
        assert_eq!(wrong(&query, &known), Vec::<String>::new(), "{query}");
    }
    // That what does not exist would be found.
    assert_eq!(wrong("sum by (ring) (enfold_nothing)", &known).len(), 2);
    assert_eq!(wrong("enfold_jobs{tenant=\"a\"}", &known).len(), 1);
    assert_eq!(wrong("sum by (tenant) (rate(enfold_kms_calls_total{status!=\"success\"}[5m]))", &known).len(), 1);
}

#[test]
fn the_guide_is_followed() {
    let sandbox = organisations();
    for block in blocks(GUIDE, "sh") {
        bash(&sandbox, &block, &[], &[]);
    }
    let scrape = blocks(GUIDE, "yaml").remove(0);
    sandbox.write("prometheus.yml", scrape);
    sandbox.write("enfold.rules.yml", RULES);
    let tools: [PathBuf; 0] = [];
    bash(&sandbox, "promtool check config prometheus.yml", &tools, &[]);
    sandbox.extend_policy(&blocks(GUIDE, "toml").concat());
    sandbox.ok(&["doctor"]);
}
