//! What may come in and go out by the network policies, and what lies outside by the ingress.

use crate::chart::Helm;
use serde_json::Value;

fn found(helm: &Helm, set: &str, kind: &str, more: &[&str]) -> Value {
    helm.objects(set, more).into_iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("{set}: {kind}"))
}

fn ports(rule: &Value) -> Vec<i64> {
    rule["ports"].as_array().unwrap().iter().map(|port| port["port"].as_i64().unwrap()).collect()
}

/// All ports that lead out of a runner, each once.
fn ways_out(helm: &Helm, more: &[&str]) -> Vec<i64> {
    let more = [&["--set", "networkPolicy.enabled=true"], more].concat();
    let policy = found(helm, "runner-small", "NetworkPolicy", &more);
    let mut all: Vec<i64> = policy["spec"]["egress"].as_array().unwrap().iter().flat_map(ports).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn a_runner_reaches_names_the_database_https_and_what_values_name() {
    let Some(helm) = Helm::find() else { return };
    assert_eq!(ways_out(&helm, &[]), [53, 443, 5432]);
    let vault =
        r#"settings.secrets.vault={"address":"https://vault.example.com:8200/v","token_file":"/t","paths":["a"]}"#;
    let ssh = "gitCredentials.existingSecret=g,gitCredentials.sshKeyKey=k,gitCredentials.knownHostsKey=h";
    let enforced = r#"settings.egress={"mode":"enforce","allow":["a.example","b.example:8443","10.0.0.0/8:5433","[2001:db8::]/32:9000","2001:db8::1","c.example:*"],"direct_ports":[5434],"upstream":"http://proxy.example.com:3128/"}"#;
    for (change, wanted) in [
        (["--set", "proxy.httpsProxy=http://proxy.example.com:3128"], vec![53, 443, 3128, 5432]),
        (["--set-json", vault], vec![53, 443, 5432, 8200]),
        (["--set", "settings.infracost.pricing_endpoint=http://prices.example.com"], vec![53, 80, 443, 5432]),
        (["--set", ssh], vec![22, 53, 443, 5432]),
        (["--set-json", "settings.sandbox.connect=[53,443,8443]"], vec![53, 443, 5432, 8443]),
        (["--set", "settings.sandbox.connect=any"], vec![53, 443, 5432]),
        (["--set-json", enforced], vec![53, 443, 3128, 5432, 5433, 5434, 8443, 9000]),
    ] {
        assert_eq!(ways_out(&helm, &change), wanted, "{change:?}");
    }
}

#[test]
fn a_runners_policy_opens_no_metadata_address_that_no_identity_needs_and_nothing_comes_in() {
    let Some(helm) = Helm::find() else { return };
    let more = ["--set", "networkPolicy.enabled=true", "--set-json", "settings.sandbox.connect=[80,443]"];
    let policy = found(&helm, "runner-small", "NetworkPolicy", &more);
    assert_eq!(policy["spec"]["ingress"].as_array().map(Vec::len), Some(0));
    assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    for rule in policy["spec"]["egress"].as_array().unwrap() {
        if ports(rule).iter().any(|port| ![53, 5432].contains(port)) {
            let all: Vec<_> = rule["to"].as_array().unwrap().iter().map(|to| &to["ipBlock"]).collect();
            assert_eq!(all[0]["except"][0], "169.254.0.0/16", "{rule}");
            assert_eq!(all[1]["except"][0], "fd00:ec2::/32", "{rule}");
        }
    }
}

#[test]
fn who_scrapes_reaches_the_figures_of_serve_and_api_and_the_ingress_leads_to_neither() {
    let Some(helm) = Helm::find() else { return };
    let policy = found(&helm, "broker-everything", "NetworkPolicy", &[]);
    let ways_in = policy["spec"]["ingress"].as_array().unwrap();
    assert_eq!(ways_in.iter().map(ports).collect::<Vec<_>>(), [vec![9100, 8080], vec![8080]]);
    assert!(ways_in.iter().all(|rule| rule["from"].is_array()), "{policy}");
    let ingress = found(&helm, "broker-everything", "Ingress", &[]);
    let paths = ingress["spec"]["rules"][0]["http"]["paths"].as_array().unwrap();
    assert_eq!(paths.iter().map(|path| path["path"].as_str().unwrap()).collect::<Vec<_>>(), ["/api"]);
}

#[test]
fn an_api_that_is_to_end_is_first_taken_out_of_its_service_and_has_the_time_that_it_takes() {
    let Some(helm) = Helm::find() else { return };
    for (seconds, grace) in [(10, 60), (300, 350)] {
        let more = ["--set", &format!("api.settings.shutdown.finish_within_s={seconds}")];
        let api = helm.objects("broker-everything", &more).into_iter();
        let api = api
            .filter(|object| object["kind"] == "Deployment")
            .find(|one| one["metadata"]["name"] == "acme-tendril-api");
        let spec = api.expect("the API")["spec"]["template"]["spec"].clone();
        assert_eq!(spec["terminationGracePeriodSeconds"], grace);
        assert_eq!(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][0], "sleep");
    }
}
