//! The manifests of the cluster: that they can be read, that they fit each other, the installer and the documents.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use pontoon_rig::command::run;
use pontoon_rig::plugin::find_binary;
use pontoon_rig::sandbox::Sandbox;
use serde_json::{Value, json};

use super::text;

/// Every object in `dist/kubernetes/NAME`.
fn objects(name: &str) -> Vec<Value> {
    let text = text(&format!("dist/kubernetes/{name}"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    for object in &objects {
        for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
            let value = object.pointer(pointer).and_then(Value::as_str);
            assert!(value.is_some(), "{name}: no {pointer}: {object}");
        }
    }
    objects
}

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two {kind}");
    one
}

fn containers(set: &Value) -> impl Iterator<Item = &Value> {
    let pod = &set["spec"]["template"]["spec"];
    let kinds = ["initContainers", "containers"];
    let lists = kinds.into_iter().filter_map(|kind| pod[kind].as_array());
    lists.flatten()
}

/// The names that begin with PONTOON_ and are all capitals.
fn variables(text: &str) -> BTreeSet<&str> {
    let is_part = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    let words = text.split(|letter: char| !is_part(letter));
    words.filter(|word| word.starts_with("PONTOON_")).collect()
}

#[test]
fn the_set_fits_its_service_and_its_policy() {
    let objects = objects("pontoon.yaml");
    let set = one(&objects, "DaemonSet");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    let service = one(&objects, "Service");
    assert_eq!(&service["spec"]["selector"], labels);
    // One address for each node, of those too that are not ready: a peer is needed before that.
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
    let ports = |list: &Value| -> Vec<u64> {
        let ports = list.as_array().unwrap().iter();
        ports.map(|port| port["port"].as_u64().unwrap()).collect()
    };
    assert_eq!(ports(&service["spec"]["ports"]), [7001, 7002]);
    // So the pod's address has to be the node's, and its resolver the cluster's.
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet");

    let policy = &one(&objects, "NetworkPolicy")["spec"];
    assert_eq!(&policy["podSelector"]["matchLabels"], labels);
    for (rules, who) in [("ingress", "from"), ("egress", "to")] {
        let rule = &policy[rules][0];
        assert_eq!(&rule[who][0]["podSelector"]["matchLabels"], labels);
        assert_eq!(ports(&rule["ports"]), [7001, 7002]);
    }
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));

    let name = |object: &Value, key| object["metadata"][key].as_str().unwrap().to_owned();
    let host = format!(
        "{}.{}.svc",
        name(service, "name"),
        name(service, "namespace")
    );
    let container = containers(set).next().unwrap();
    let mut variables = container["env"].as_array().unwrap().iter();
    assert!(variables.any(|v| v["name"] == "PONTOON_PEERS_SERVICE" && v["value"] == *host));
}

#[test]
fn nothing_may_do_more_than_it_has_to() {
    for name in ["pontoon.yaml", "uninstall.yaml"] {
        let objects = objects(name);
        for object in &objects {
            let kind = object["kind"].as_str().unwrap();
            assert!(!kind.contains("Role"), "{name} gives a role");
        }
        let set = one(&objects, "DaemonSet");
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        for container in containers(set) {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true);
            let is_installer = container.get("command").is_none();
            assert_eq!(context.get("privileged").is_some(), is_installer);
        }
        // What it does on the node, it says by itself.
        let mounts = pod["volumes"].as_array().unwrap();
        assert!(
            mounts
                .iter()
                .any(|volume| volume["hostPath"]["path"] == "/")
        );
    }
    let account = objects("pontoon.yaml");
    let account = one(&account, "ServiceAccount");
    assert_eq!(account["automountServiceAccountToken"], false);
}

#[test]
fn the_installer_reads_what_the_manifests_say_and_the_documents_tell_it() {
    let script = text("dist/kubernetes/install.sh");
    let read = variables(&script);
    for name in ["pontoon.yaml", "uninstall.yaml"] {
        for container in containers(one(&objects(name), "DaemonSet")) {
            for variable in container["env"].as_array().into_iter().flatten() {
                let variable = variable["name"].as_str().unwrap();
                assert!(read.contains(variable), "{name}: nobody reads {variable}");
            }
            let verb = container["args"][0].as_str();
            let known = verb.is_none_or(|verb| script.contains(&format!("\n    {verb})")));
            assert!(known, "{name}: {verb:?}");
        }
    }
    let page = text("docs/kubernetes.md");
    for variable in read {
        assert!(
            page.contains(&format!("`{variable}`")),
            "not documented: {variable}"
        );
    }
    for name in ["PONTOON_PLUGIN", "PONTOON_HOST"] {
        assert!(variables(&script).contains(name));
    }
}

#[test]
fn the_daemon_takes_the_configuration_of_the_cluster() {
    let objects = objects("pontoon.yaml");
    let files = one(&objects, "ConfigMap")["data"].as_object().unwrap();
    let sandbox = Sandbox::new().unwrap();
    for (name, config) in files {
        let plugin = name.strip_suffix(".toml").unwrap();
        let path = sandbox.path(name);
        fs::write(&path, config.as_str().unwrap()).unwrap();
        let daemon = find_binary(&format!("pontoon-{plugin}")).unwrap();
        let mut check = Command::new(daemon);
        check.arg("--config").arg(&path).arg("check-config");
        run(&mut check, Duration::from_secs(30)).unwrap();
    }
    assert!(files.contains_key("nydus.toml"));
}

/// What the image copies is what is built and shipped.
#[test]
fn the_image_has_what_the_installer_needs() {
    let recipe = text("dist/kubernetes/Containerfile");
    for name in [
        "pontoon",
        "pontoon-holder",
        "pontoon-nydus",
        "pontoon-stargz",
        "pontoon-overlayfs",
    ] {
        assert!(recipe.contains(&format!("target/dist/{name} ")), "{name}");
        assert!(recipe.contains(&format!("--package {name}")), "{name}");
        find_binary(name).unwrap();
    }
    for path in ["dist/systemd", "dist/kubernetes/install.sh"] {
        assert!(
            recipe.contains(path) && super::file(path).exists(),
            "{path}"
        );
    }
}
