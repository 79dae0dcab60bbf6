//! What every pod of ours has: the `restricted` standard and more, time to finish its work, and nobody who moves it.

use crate::chart::{Helm, SETS};
use serde_json::{Value, json};

/// Pods of a set: of workloads and of `helm test`.
fn pods(helm: &Helm, set: &str, more: &[&str]) -> Vec<Value> {
    let pod = |object: Value| match object["kind"].as_str() {
        Some("Deployment" | "StatefulSet") => Some(object["spec"]["template"].clone()),
        Some("Pod") => Some(object),
        _ => None,
    };
    helm.objects(set, more).into_iter().filter_map(pod).collect()
}

fn containers(pod: &Value) -> Vec<&Value> {
    let of = |key: &str| pod["spec"][key].as_array().into_iter().flatten();
    // Further init containers are their owner's.
    of("containers").chain(of("initContainers").filter(|container| container["name"] == "migrate")).collect()
}

const VOLUMES: [&str; 5] = ["configMap", "secret", "emptyDir", "ephemeral", "persistentVolumeClaim"];

#[test]
fn every_pod_is_restricted_reads_only_its_image_and_has_no_token() {
    let Some(helm) = Helm::find() else { return };
    for (set, _) in SETS {
        let pods = pods(&helm, set, &[]);
        assert!(pods.len() >= 2, "{set}");
        for pod in pods {
            let spec = &pod["spec"];
            let who = format!("{set}: {}", pod["metadata"]);
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{who}");
            let seccomp = &spec["securityContext"]["seccompProfile"]["type"];
            assert!(seccomp == "RuntimeDefault" || seccomp == "Localhost", "{who}");
            assert_ne!(spec["securityContext"]["runAsUser"], 0, "{who}");
            for key in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(spec.get(key).is_none(), "{who}: {key}");
            }
            // The one set that asks for a token gets it, but not in its test.
            let asked = set == "runner-everything" && pod["kind"] != "Pod";
            assert_eq!(spec["automountServiceAccountToken"], asked, "{who}");
            for volume in spec["volumes"].as_array().into_iter().flatten() {
                let kind = volume.as_object().unwrap().keys().find(|key| *key != "name").unwrap();
                assert!(VOLUMES.contains(&kind.as_str()), "{who}: {volume}");
            }
            for container in containers(&pod) {
                let wanted = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
                assert_eq!(container["securityContext"], wanted, "{who}");
                assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError", "{who}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{who}");
            }
        }
    }
}

#[test]
fn a_runner_pod_has_the_time_that_its_drain_takes_and_nobody_moves_it() {
    let Some(helm) = Helm::find() else { return };
    let first = |more: &[&str]| pods(&helm, "runner-small", more).into_iter().find(|pod| pod["kind"] != "Pod").unwrap();
    let grace = |more: &[&str]| first(more)["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap();
    assert_eq!(grace(&[]), 3600 + 60 + 2 * 30 + 15);
    assert_eq!(grace(&["--set", "settings.shutdown.finish_within_s=86400"]), 86400 + 60 + 2 * 30 + 15);
    assert_eq!(
        grace(&["--set", "settings.shutdown.report_within_s=100,longestKillGraceSeconds=0"]),
        3600 + 2 * 100 + 15
    );
    assert_eq!(grace(&["--set", "terminationGracePeriodSeconds=9000"]), 9000);
    let annotations = first(&[])["metadata"]["annotations"].clone();
    assert_eq!(annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"], "false");
    assert_eq!(annotations["karpenter.sh/do-not-disrupt"], "true");
}

fn workload(helm: &Helm, more: &[&str]) -> Value {
    let kinds = ["Deployment", "StatefulSet"];
    helm.objects("runner-small", more)
        .into_iter()
        .find(|object| kinds.iter().any(|kind| object["kind"] == *kind))
        .unwrap()
}

#[test]
fn a_rollout_waits_for_the_new_runner_and_a_changed_setting_is_a_rollout() {
    let Some(helm) = Helm::find() else { return };
    let workload = |more: &[&str]| workload(&helm, more);
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    assert_eq!(workload(&[])["spec"]["strategy"]["rollingUpdate"], rolling);
    let template = |more: &[&str]| workload(more)["spec"]["template"].clone();
    assert_ne!(template(&[]), template(&["--set", "settings.slots=5"]));
    let token = ["--set", "credentials.existingSecret=,credentials.artifactKey=k,credentials.token=t"];
    assert_ne!(template(&token), template(&[token[0], &token[1].replace("token=t", "token=u")]));
}

#[test]
fn a_claim_makes_a_stateful_set_whose_next_pod_finds_the_same_disk() {
    let Some(helm) = Helm::find() else { return };
    let claim = workload(&helm, &["--set", "state.kind=claim,state.place=true"]);
    assert_eq!(claim["kind"], "StatefulSet");
    assert_eq!(claim["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], "state");
    assert_eq!(
        claim["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Delete", "whenScaled": "Retain"})
    );
    let env = claim["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    let place = env.iter().find(|variable| variable["name"] == "TENDRIL_PLACE").unwrap();
    assert_eq!(place["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    let names = |object: &Value| {
        object["spec"]["template"]["spec"]["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|volume| volume["name"].clone())
            .collect::<Vec<_>>()
    };
    assert!(!names(&claim).contains(&json!("state")), "the claim is the state");
    let without = workload(&helm, &[]);
    assert_eq!(without["kind"], "Deployment");
    assert!(names(&without).contains(&json!("state")));
}

#[test]
fn by_default_there_are_no_rights_in_kubernetes_and_no_objects_of_operators() {
    let Some(helm) = Helm::find() else { return };
    for set in ["runner-small", "broker-small"] {
        for object in helm.objects(set, &[]) {
            let api = object["apiVersion"].as_str().unwrap().to_owned();
            assert!(["v1", "apps/v1", "policy/v1"].contains(&api.as_str()), "{set}: {api} {}", object["kind"]);
            let hook = object["metadata"]["annotations"]["helm.sh/hook"].as_str();
            assert!(hook.is_none() || hook == Some("test"), "{set}: Argo CD and Flux trip over hooks");
        }
    }
}

#[test]
fn no_credential_stands_anywhere_but_in_the_secret() {
    let Some(helm) = Helm::find() else { return };
    for (set, more, secrets) in [
        ("runner-gke", "credentials.token=hunter2,credentials.artifactKey=hunter3", ["hunter2", "hunter3"]),
        ("broker-everything", "database.url=postgres://o:hunter2@h/d", ["hunter2", "hunter2"]),
    ] {
        for object in helm.objects(set, &["--set", more]) {
            let text = object.to_string();
            let holds = secrets.iter().all(|secret| text.contains(secret));
            assert_eq!(holds, object["kind"] == "Secret", "{set}: {text}");
        }
    }
}
