//! Whether Kubernetes and the operators would take what is rendered: by the schemas of several versions of Kubernetes, and
//! by those of the operators' own definitions. Nothing is sent anywhere.

use crate::chart::{Helm, KUBERNETES, SETS, documents, installed, read, yaml};
use serde_json::{Value, json};
use std::path::Path;

/// Kinds of Kubernetes that the charts use, and where their schemas stand.
const KINDS: [(&str, &str, &str); 14] = [
    ("v1", "ConfigMap", "core.v1"),
    ("v1", "Pod", "core.v1"),
    ("v1", "Secret", "core.v1"),
    ("v1", "Service", "core.v1"),
    ("v1", "ServiceAccount", "core.v1"),
    ("apps/v1", "Deployment", "apps.v1"),
    ("apps/v1", "StatefulSet", "apps.v1"),
    ("policy/v1", "PodDisruptionBudget", "policy.v1"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networking.v1"),
    ("networking.k8s.io/v1", "Ingress", "networking.v1"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "autoscaling.v2"),
    ("rbac.authorization.k8s.io/v1", "Role", "rbac.v1"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "rbac.v1"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rbac.v1"),
];

/// Kinds of operators, and the file of their definition.
const DEFINITIONS: [(&str, &str); 5] = [
    ("PodMonitor", "podmonitors.yaml"),
    ("PrometheusRule", "prometheusrules.yaml"),
    ("ScaledObject", "scaledobjects.yaml"),
    ("TriggerAuthentication", "triggerauthentications.yaml"),
    ("ExternalSecret", "externalsecrets.yaml"),
];

/// All definitions of one version of Kubernetes, with the references between them made local.
struct Kubernetes(Value);

impl Kubernetes {
    fn read(folder: &Path, version: &str) -> Self {
        let path = folder.join(format!("v{version}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(serde_json::from_str(&text.replace("/api/_definitions.json#", "#")).unwrap())
    }

    fn problems(&self, object: &Value) -> Vec<String> {
        let (api, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let known = KINDS.iter().find(|(a, k, _)| *a == api && (*k == kind || kind == format!("{k}Binding")));
        let Some((_, _, group)) = known else { return vec![format!("{api} {kind} is not among the kinds")] };
        let mut schema = self.0.clone();
        schema["$ref"] = json!(format!("#/$defs/io.k8s.api.{group}.{kind}"));
        // A number stands for itself where a text would do as well; the server's own reading, which no schema says.
        problems(&schema, object)
    }
}

fn problems(schema: &Value, object: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(schema).unwrap_or_else(|error| panic!("{error}"));
    validator.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// The API server drops what a definition does not know; here that is a mistake.
fn strict(schema: &mut Value) {
    if let Some(map) = schema.as_object_mut() {
        let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
        if map.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
            map.remove("anyOf");
            map.insert("type".into(), json!(["integer", "string"]));
        }
        if map.contains_key("properties") && !open && !map.contains_key("additionalProperties") {
            map.insert("additionalProperties".into(), json!(false));
        }
        // ECMAScript's dialect and formats are not the server's.
        map.remove("format");
        map.values_mut().for_each(strict);
    } else if let Some(list) = schema.as_array_mut() {
        list.iter_mut().for_each(strict);
    }
}

fn definition_problems(folder: &Path, object: &Value) -> Vec<String> {
    let (api, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let (_, file) =
        DEFINITIONS.iter().find(|(known, _)| *known == kind).unwrap_or_else(|| panic!("{kind} is not known"));
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let definition = yaml(&text);
    let version = api.rsplit('/').next().unwrap();
    assert_eq!(definition["spec"]["group"], api.split('/').next().unwrap());
    let versions = definition["spec"]["versions"].as_array().unwrap();
    let Some(found) = versions.iter().find(|one| one["name"] == version && one["served"] == true) else {
        return vec![format!("{api} is not served")];
    };
    let mut schema = found["schema"]["openAPIV3Schema"].clone();
    strict(&mut schema);
    schema["properties"]["metadata"] = json!({"type": "object"});
    problems(&schema, object)
}

fn schemas() -> Option<std::path::PathBuf> {
    installed("TENDRIL_TEST_KUBE_SCHEMAS")
}

#[test]
fn every_object_is_one_that_each_version_of_kubernetes_takes() {
    let (Some(helm), Some(folder)) = (Helm::find(), schemas()) else { return };
    for version in KUBERNETES {
        let kubernetes = Kubernetes::read(&folder, version);
        for (set, _) in SETS {
            let rendered = helm.template(set, version, &[]).unwrap();
            for object in documents(&rendered) {
                let of_operator = DEFINITIONS.iter().any(|(kind, _)| object["kind"] == *kind);
                let found =
                    if of_operator { definition_problems(&folder, &object) } else { kubernetes.problems(&object) };
                assert!(found.is_empty(), "{set} on {version}, {}: {found:#?}", object["kind"]);
            }
        }
    }
}

#[test]
fn an_object_with_an_unknown_key_or_a_wrong_type_is_found() {
    let Some(folder) = schemas() else { return };
    let kubernetes = Kubernetes::read(&folder, KUBERNETES[0]);
    // Tried: a misspelt key of a pod, a text for a number, a kind that is not there.
    for (path, value) in
        [("/spec/replica", json!(1)), ("/spec/replicas", json!("one")), ("/spec/template/spec/tolerance", json!([]))]
    {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {
            "selector": {}, "template": {"metadata": {}, "spec": {"containers": [{"name": "a"}]}}}});
        assert_eq!(kubernetes.problems(&object), Vec::<String>::new());
        let (parent, key) = path.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        assert!(!kubernetes.problems(&object).is_empty(), "{path}");
    }
    assert!(!kubernetes.problems(&json!({"apiVersion": "v1", "kind": "Pot"})).is_empty());
    let monitor = json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {}, "spec": {
        "selector": {}, "podMetricsEndpoints": [{"prot": "metrics"}]}});
    assert!(!definition_problems(&folder, &monitor).is_empty());
}

#[test]
fn the_example_for_external_secrets_is_one_that_its_operator_takes() {
    let Some(folder) = schemas() else { return };
    let example = yaml(&read("examples/external-secret.yaml"));
    assert_eq!(definition_problems(&folder, &example), Vec::<String>::new());
    let keys: Vec<_> = example["spec"]["data"].as_array().unwrap().iter().map(|one| one["secretKey"].clone()).collect();
    assert_eq!(keys, ["TENDRIL_AGENT_TOKEN", "TENDRIL_ARTIFACT_KEY", "TENDRIL_DATABASE_URL"]);
}
