//! Wrong values are refused before anything reaches a cluster, by a message that names the key.

use crate::chart::{Helm, KUBERNETES};

/// A set of values, what is changed in it, and words that the refusal must have.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

fn refused(helm: &Helm, (set, changes, words): &Case) {
    let arguments: Vec<&str> = changes
        .iter()
        .flat_map(|change| {
            [if change.contains("=[") || change.contains("={") { "--set-json" } else { "--set" }, *change]
        })
        .collect();
    let said = match helm.template(set, KUBERNETES[2], &arguments) {
        Ok(_) => panic!("{set} with {changes:?} was rendered"),
        Err(said) => said,
    };
    for word in *words {
        assert!(said.contains(word), "{set} with {changes:?} does not say {word}: {said}");
    }
}

/// Tried: unknown keys on each level, wrong types, values outside of their bounds, words that are none.
const BY_SCHEMA: &[Case] = &[
    ("runner-small", &["replica=2"], &["replica"]),
    ("runner-small", &["settings.slotz=2"], &["settings", "slotz"]),
    ("runner-small", &["settings.tools.terrafrom=x"], &["tools", "terrafrom"]),
    ("runner-small", &["settings.state_dir=/x"], &["settings", "state_dir"]),
    ("runner-small", &["settings.shutdown.hand_over=true"], &["shutdown", "hand_over"]),
    ("runner-small", &["settings.http.listen=0.0.0.0:1"], &["settings", "http"]),
    ("runner-small", &["replicas=-1"], &["replicas"]),
    ("runner-small", &["replicas=many"], &["replicas"]),
    ("runner-small", &["image.digest=sha256:abc"], &["image", "digest"]),
    ("runner-small", &["image.pullPolicy=Sometimes"], &["image", "pullPolicy"]),
    ("runner-small", &["imagePullSecrets=[\"registry\"]"], &["imagePullSecrets"]),
    ("runner-small", &["database.url=postgres://u:p@h/d"], &["database", "url"]),
    ("runner-small", &["database.url=mysql://h/d"], &["database", "url"]),
    ("runner-small", &["settings.slots=0"], &["settings", "slots"]),
    ("runner-small", &["settings.slots=1.5"], &["settings", "slots"]),
    ("runner-small", &["settings.labels=[\"kind=exec\"]"], &["settings", "labels"]),
    ("runner-small", &["settings.labels=[\"a b\"]"], &["settings", "labels"]),
    ("runner-small", &["settings.kinds=[\"terraform.pln\"]"], &["settings", "kinds"]),
    ("runner-small", &["settings.tools.pass_env=[\"TENDRIL_AGENT_TOKEN\"]"], &["tools", "pass_env"]),
    ("runner-small", &["settings.tools.pass_env=[\"*\"]"], &["tools", "pass_env"]),
    ("runner-small", &["settings.tools.env={\"TENDRIL_X\":\"y\"}"], &["tools", "env"]),
    ("runner-small", &["settings.tools.env={\"A\":1}"], &["tools", "env"]),
    ("runner-small", &["settings.sandbox.mode=none"], &["sandbox", "mode"]),
    ("runner-small", &["settings.sandbox.programs=[\"sh\"]"], &["sandbox", "programs"]),
    ("runner-small", &["settings.sandbox.connect=[0]"], &["sandbox", "connect"]),
    ("runner-small", &["settings.sandbox.connect=all"], &["sandbox", "connect"]),
    ("runner-small", &["settings.egress.mode=on"], &["egress", "mode"]),
    ("runner-small", &["settings.egress.direct_ports=[0]"], &["egress", "direct_ports"]),
    ("runner-small", &["settings.secrets.folders=[\"secrets\"]"], &["secrets", "folders"]),
    ("runner-small", &["settings.secrets.vault={\"address\":\"vault\"}"], &["secrets", "vault"]),
    ("runner-small", &["settings.logs.flush_interval_ms=1"], &["logs", "flush_interval_ms"]),
    ("runner-small", &["settings.logs.spool_bytes=1"], &["logs", "spool_bytes"]),
    ("runner-small", &["settings.infracost.currency=euro"], &["infracost", "currency"]),
    ("runner-small", &["terminationGracePeriodSeconds=0"], &["terminationGracePeriodSeconds"]),
    ("runner-small", &["state.kind=hostPath"], &["state", "kind"]),
    ("runner-small", &["state.size=10G"], &["state", "size"]),
    ("runner-small", &["cloudIdentity=aws"], &["cloudIdentity"]),
    ("runner-small", &["podSecurity.runAsUser=0"], &["podSecurity", "runAsUser"]),
    ("runner-small", &["podSecurity.seccompProfile.type=Unconfined"], &["seccompProfile", "type"]),
    ("runner-small", &["podDisruptionBudget.maxUnavailable=0"], &["podDisruptionBudget", "maxUnavailable"]),
    ("runner-small", &["probes.liveness.failureThreshold=1"], &["liveness", "failureThreshold"]),
    ("runner-small", &["autoscaling.kind=vpa"], &["autoscaling", "kind"]),
    ("runner-small", &["networkPolicy.databaseCidrs=[\"10.0.0.1\"]"], &["networkPolicy", "databaseCidrs"]),
    ("runner-small", &["proxy.httpProxy=proxy:3128"], &["proxy", "httpProxy"]),
    ("broker-small", &["replicas=2"], &["replicas"]),
    ("broker-small", &["serve.intervalMs=5000"], &["serve", "intervalMs"]),
    ("broker-small", &["archive.url=https://bucket"], &["archive", "url"]),
    ("broker-small", &["api.service.port=0"], &["service", "port"]),
    ("broker-small", &["api.settings.limits.watcher=1"], &["limits", "watcher"]),
    ("broker-small", &["api.settings.cors={\"origins\":[\"*\"]}"], &["cors", "origins"]),
];

/// Tried: values that are right each for itself, and wrong together.
const BY_CONTRADICTION: &[Case] = &[
    ("runner-small", &["image.repository="], &["image.repository", "helm/Containerfile"]),
    ("runner-small", &["credentials.token=a"], &["credentials.existingSecret", "either"]),
    ("runner-small", &["credentials.existingSecret="], &["credentials.existingSecret", "TENDRIL_AGENT_TOKEN"]),
    ("runner-gke", &["credentials.artifactKey="], &["credentials.artifactKey", "tendril-runner artifact-key"]),
    ("runner-gke", &["database.url="], &["database.url", "postgres://"]),
    (
        "runner-small",
        &["terminationGracePeriodSeconds=3600"],
        &["terminationGracePeriodSeconds: 3600", "3735", "finish_within_s"],
    ),
    (
        "runner-small",
        &["terminationGracePeriodSeconds=3735", "longestKillGraceSeconds=61"],
        &["terminationGracePeriodSeconds: 3735", "3736"],
    ),
    ("runner-azure", &["settings.shutdown.finish_within_s=7200"], &["terminationGracePeriodSeconds: 7200", "7335"]),
    ("runner-small", &["state.size=1Gi"], &["settings.logs.spool_bytes", "state.size"]),
    ("runner-small", &["state.place=true"], &["state.place", "state.kind=claim"]),
    ("runner-small", &["state.storageClass=gp3"], &["state.storageClass"]),
    ("runner-small", &["rollout.maxSurge=0"], &["rollout.maxSurge", "at least 1"]),
    ("runner-small", &["autoscaling.kind=keda"], &["autoscaling.keda.connectionSecret"]),
    (
        "runner-small",
        &["autoscaling.kind=hpa", "autoscaling.minReplicas=3"],
        &["autoscaling.minReplicas", "autoscaling.maxReplicas"],
    ),
    ("runner-small", &["autoscaling.kind=hpa", "autoscaling.minReplicas=0"], &["autoscaling.minReplicas", "keda"]),
    ("runner-small", &["rbac.create=true"], &["rbac.create", "serviceAccount.automountToken"]),
    ("runner-small", &["rbac.create=true", "serviceAccount.automountToken=true"], &["rbac.create", "rbac.rules"]),
    ("runner-small", &["extraCa.configMap=a", "extraCa.secret=b"], &["extraCa"]),
    ("runner-small", &["podSecurity.seccompProfile.type=Localhost"], &["podSecurity.seccompProfile.localhostProfile"]),
    ("runner-small", &["gitCredentials.tokenKey=t", "gitCredentials.existingSecret=g"], &["settings.git.token_hosts"]),
    ("runner-small", &["gitCredentials.knownHostsKey=t"], &["gitCredentials.existingSecret"]),
    (
        "runner-small",
        &["gitCredentials.sshKeyKey=t", "gitCredentials.existingSecret=g"],
        &["gitCredentials.knownHostsKey"],
    ),
    ("runner-small", &["extraEnv=[{\"name\":\"TENDRIL_SLOTS\",\"value\":\"9\"}]"], &["extraEnv", "TENDRIL_SLOTS"]),
    ("runner-eks", &["networkPolicy.databasePort=5432"], &["networkPolicy.databasePort", "6432"]),
    (
        "runner-small",
        &["networkPolicy.enabled=true", "database.url=postgres://h:6432?sslmode=require"],
        &["networkPolicy.databasePort", "6432"],
    ),
    ("runner-small", &["proxy.httpsProxy=http://u:p@proxy:3128"], &["proxy.httpsProxy", "settings.tools.pass_env"]),
    (
        "runner-small",
        &["settings.egress.upstream=http://u:p@proxy:3128"],
        &["settings.egress.upstream", "settings.tools.pass_env"],
    ),
    ("runner-gke", &["settings.egress.mode=enforce"], &["cloudIdentity: gke", "settings.egress.mode"]),
    ("runner-eks", &["settings.egress.mode=enforce"], &["cloudIdentity: eksPodIdentity", "settings.egress.mode"]),
    ("broker-everything", &["networkPolicy.databasePort=6432"], &["networkPolicy.databasePort", "5432"]),
    ("broker-small", &["image.repository="], &["image.repository", "helm/Containerfile"]),
    ("broker-small", &["database.url=postgres://h/d"], &["database.existingSecret", "either"]),
    ("broker-small", &["database.existingSecret="], &["database.existingSecret", "TENDRIL_DATABASE_URL"]),
    ("broker-small", &["extraCa.configMap=a", "extraCa.secret=b"], &["extraCa"]),
    ("broker-small", &["podSecurity.seccompProfile.type=Localhost"], &["podSecurity.seccompProfile.localhostProfile"]),
    ("broker-small", &["archive.existingSecret=a"], &["archive.url"]),
    ("broker-small", &["api.ingress.enabled=true"], &["api.ingress.enabled", "api.enabled"]),
    ("broker-small", &["api.ingress.enabled=true", "api.enabled=true", "api.existingSecret=a"], &["api.ingress.host"]),
    (
        "broker-small",
        &["extraEnv=[{\"name\":\"TENDRIL_DATABASE_URL\",\"value\":\"x\"}]"],
        &["extraEnv", "TENDRIL_DATABASE_URL"],
    ),
    (
        "broker-small",
        &["api.extraEnv=[{\"name\":\"TENDRIL_API_LISTEN\",\"value\":\"x\"}]"],
        &["extraEnv", "TENDRIL_API_LISTEN"],
    ),
    ("broker-small", &["api.extraEnv=[{\"name\":\"TENDRIL_LOG\",\"value\":\"debug\"}]"], &["extraEnv", "TENDRIL_LOG"]),
    ("broker-small", &["api.enabled=true"], &["api.existingSecret", "TENDRIL_DATABASE_URL"]),
    ("broker-small", &["api.enabled=true", "api.existingSecret=tendril-operator"], &["api.existingSecret", "operator"]),
    ("broker-small", &["api.settings.listen=x"], &["settings", "listen"]),
    ("broker-small", &["networkPolicy.enabled=true", "database.existingSecret="], &["database.existingSecret"]),
    (
        "runner-small",
        &["autoscaling.kind=keda", "autoscaling.keda.connectionSecret=q", "autoscaling.minReplicas=9"],
        &["autoscaling.minReplicas: 9"],
    ),
];

#[test]
fn a_value_that_cannot_be_is_refused_by_its_key() {
    let Some(helm) = Helm::find() else { return };
    BY_SCHEMA.iter().for_each(|case| refused(&helm, case));
}

#[test]
fn values_that_contradict_each_other_are_refused_with_what_would_be_right() {
    let Some(helm) = Helm::find() else { return };
    BY_CONTRADICTION.iter().for_each(|case| refused(&helm, case));
}

#[test]
fn a_kubernetes_that_is_too_old_is_refused() {
    let Some(helm) = Helm::find() else { return };
    let said = helm.template("runner-small", "1.26.0", &[]).unwrap_err();
    assert!(said.contains("1.27") && said.contains("1.26"), "{said}");
}
