use crate::bed::{Bed, Outcome, job};
use crate::pricing::{Prices, Pricing};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use tendril_broker::runner::{Claimed, StoredArtifact};
use tendril_runner::stop::Stop;
use uuid::Uuid;

const VARIABLE: &str = "TENDRIL_TEST_INFRACOST";
const ALL: Prices = Prices::All { currency: "USD", price: "0.096" };
/// One machine, one disk.
const WEB: &str = r#"provider "aws" {
  region = "us-east-1"
}

resource "aws_instance" "web" {
  ami           = "ami-0123456789abcdef0"
  instance_type = "m5.large"

  root_block_device {
    volume_size = 50
  }
}
"#;

/// A real Infracost; without one the test says so past the harness, which hides what passing tests print.
fn infracost() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "{VARIABLE}: {} does not exist", path.display());
        return Some(path);
    }
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search_path).map(|dir| dir.join("infracost")).find(|path| path.is_file());
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let said = format!("SKIPPED {test}: infracost is not on PATH, and {VARIABLE} is not set\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    found
}

/// A machine whose whole network is that server: what goes elsewhere is refused by it as by a proxy.
fn bed(infracost: PathBuf, pricing: &Pricing) -> Bed {
    let mut bed = Bed::new();
    bed.config.infracost.path = Some(infracost);
    bed.config.infracost.pricing_endpoint = Some(pricing.url());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        bed.config.tools.env.insert(name.to_owned(), pricing.url());
    }
    bed
}

fn cost(main: &str) -> Claimed {
    job("infracost.breakdown", json!({"template": {"inline": {"main.tf": main}}, "stateless": true}), json!({}))
}

/// The cost of these files with these prices, and what the network was asked; nothing where there is no Infracost.
async fn cost_with(prices: Prices, main: &str) -> Option<(Outcome, Vec<String>)> {
    let infracost = infracost()?;
    let pricing = Pricing::with(prices).await;
    let done = bed(infracost, &pricing).run(cost(main)).await;
    Some((done, pricing.requests()))
}

/// A failure: the cost is unknown, for that reason.
fn failed(done: &Outcome, reason: &str) {
    let Stop::Failed { reason: said, result, .. } = done.stop() else { panic!("{:?}\n{}", done.verdict, done.text()) };
    assert!(said.contains(reason), "{said}");
    assert_eq!(result["total_monthly_cost"], Value::Null);
    assert!(result["unknown"][0]["reason"].as_str().unwrap().contains(reason), "{result}");
    assert!(!done.text().contains("monthly cost: 0"), "{}", done.text());
}

#[tokio::test]
async fn a_priced_folder_has_a_total_in_decimals() {
    let Some((done, requests)) = cost_with(ALL, WEB).await else { return };
    let result = done.result();
    // 730 h x 0.096 and 50 GB x 0.096: no binary fraction has crept in.
    assert_eq!(result["total_monthly_cost"], json!("74.88"));
    assert_eq!((&result["currency"], &result["unknown"], &result["diff"]), (&json!("USD"), &json!([]), &Value::Null));
    assert!(done.text().contains("monthly cost: 74.88 USD"), "{}", done.text());
    assert!(requests.iter().all(|one| ["POST /graphql", "POST /event"].contains(&one.as_str())), "{requests:?}");
    assert!(requests.contains(&"POST /graphql".to_owned()));
}

#[tokio::test]
async fn a_kept_plan_is_priced_with_what_it_changes() {
    let Some(infracost) = infracost() else { return };
    let pricing = Pricing::with(ALL).await;
    let bed = bed(infracost, &pricing);
    let planned = Uuid::from_u128(0x91a);
    let empty = StoredArtifact { media_type: "application/json".into(), data: Vec::new() };
    bed.desk.artifacts.lock().unwrap().insert((planned, "plan-json".into()), empty);
    bed.replace_artifact(planned, "plan-json", include_bytes!("plan.json"));
    // The files would not parse: they are not looked at.
    let done = bed.run(Claimed { plan_attempt: Some(planned), ..cost("resource {") }).await;
    let figures = ["subject", "total_monthly_cost", "diff"].map(|name| &done.result()[name]);
    assert_eq!(figures, [&json!("plan"), &json!("74.88"), &json!("2.88")], "the disk grows from 20 to 50 GB");
}

#[tokio::test]
async fn inputs_and_workspace_reach_the_estimate() {
    let Some(infracost) = infracost() else { return };
    let pricing = Pricing::with(ALL).await;
    let main = WEB.replace("50", "terraform.workspace == \"prod\" ? var.gb : 1") + "variable \"gb\" {}\n";
    let snapshot = json!({
        "template": {"inline": {"main.tf": main}},
        "stateless": true,
        "workspace": "prod",
        "inputs": {"gb": 100},
    });
    let done = bed(infracost, &pricing).run(job("infracost.breakdown", snapshot, json!({}))).await;
    assert_eq!(done.result()["total_monthly_cost"], json!("79.68"), "{}", done.text());
}

#[tokio::test]
async fn a_folder_that_does_not_parse_fails_and_costs_no_0() {
    for broken in ["", "resource \"aws_instance\" {", "this is no terraform"] {
        let Some((done, _)) = cost_with(ALL, broken).await else { return };
        failed(&done, "infracost could not estimate: ");
    }
}

#[tokio::test]
async fn a_price_that_the_server_does_not_know_is_unknown() {
    for prices in [Prices::None, Prices::Unpriced, Prices::Nonsense] {
        let Some((done, _)) = cost_with(prices, WEB).await else { return };
        let result = done.result();
        let totals = ["total_monthly_cost", "known_monthly_cost", "diff"].map(|name| &result[name]);
        assert_eq!(totals, [&Value::Null; 3]);
        let parts: Vec<&str> =
            result["unknown"].as_array().unwrap().iter().map(|p| p["what"].as_str().unwrap()).collect();
        let [machine, disk] = parts[..] else { panic!("{parts:?}") };
        assert!(machine.starts_with("aws_instance.web: Instance usage"), "{machine}");
        assert!(disk.starts_with("aws_instance.web.root_block_device: Storage"), "{disk}");
        assert!(done.text().contains("monthly cost: unknown"), "{}", done.text());
    }
}

#[tokio::test]
async fn a_pricing_server_that_is_down_or_broken_is_named() {
    let Some(infracost) = infracost() else { return };
    let down = Pricing::down();
    let broken = Pricing::with(Prices::Broken).await;
    let (down_bed, broken_bed) = (bed(infracost.clone(), &down), bed(infracost, &broken));
    let (no_answer, no_prices) = tokio::join!(down_bed.run(cost(WEB)), broken_bed.run(cost(WEB)));
    failed(&no_answer, "connection refused");
    assert!(no_answer.reason().contains(&down.url()), "{}", no_answer.reason());
    failed(&no_prices, &broken.url());
}

#[tokio::test]
async fn a_price_in_another_currency_is_unknown() {
    let Some(infracost) = infracost() else { return };
    let pricing = Pricing::with(ALL).await;
    let mut bed = bed(infracost, &pricing);
    bed.config.infracost.currency = Some("EUR".into());
    let done = bed.run(cost(WEB)).await;
    let result = done.result();
    let totals = ["total_monthly_cost", "known_monthly_cost", "unknown_count"].map(|name| &result[name]);
    assert_eq!(totals, [&Value::Null, &Value::Null, &json!(2)], "{result}");
}

#[tokio::test]
async fn a_price_of_0_is_a_price() {
    let Some((done, _)) = cost_with(Prices::All { currency: "USD", price: "0" }, WEB).await else { return };
    assert_eq!(done.result()["total_monthly_cost"], json!("0"), "{}", done.text());
}

#[tokio::test]
async fn what_depends_on_usage_or_a_missing_input_is_unknown() {
    let bucket = "\nresource \"aws_s3_bucket\" \"logs\" {\n  bucket = \"logs\"\n}\n";
    let Some((done, _)) = cost_with(ALL, &format!("{WEB}{bucket}")).await else { return };
    assert_eq!(done.result()["total_monthly_cost"], Value::Null);
    assert_eq!(done.result()["known_monthly_cost"], json!("74.88"), "at least what is known");

    let sized = WEB.replace("\"m5.large\"", "var.size") + "\nvariable \"size\" {}\n";
    let Some((done, _)) = cost_with(ALL, &sized).await else { return };
    assert_eq!(done.result()["total_monthly_cost"], Value::Null, "{}", done.result());
    assert!(done.text().contains("Missing Terraform vars"), "{}", done.text());
}

#[tokio::test]
async fn prices_of_an_earlier_job_do_not_stand_in_for_missing_ones() {
    let Some(infracost) = infracost() else { return };
    let (knowing, ignorant) = (Pricing::with(ALL).await, Pricing::with(Prices::None).await);
    let mut bed = bed(infracost, &knowing);
    // Infracost would keep prices here: in the next folder of that name above the files.
    std::fs::create_dir(bed.dir().join(".infracost")).unwrap();
    assert_eq!(bed.run(cost(WEB)).await.result()["total_monthly_cost"], json!("74.88"));
    bed.config.infracost.pricing_endpoint = Some(ignorant.url());
    assert_eq!(bed.run(cost(WEB)).await.result()["total_monthly_cost"], Value::Null);
}

#[tokio::test]
async fn a_module_that_cannot_be_had_and_a_wrong_key_are_named() {
    let module = "module \"net\" {\n  source = \"git::https://modules.invalid/net.git\"\n}\n";
    let Some((done, requests)) = cost_with(ALL, &format!("{WEB}{module}")).await else { return };
    failed(&done, "modules.invalid/net.git");
    assert!(requests.contains(&"CONNECT modules.invalid:443".to_owned()), "{requests:?}");

    let Some((done, _)) = cost_with(Prices::Denied, WEB).await else { return };
    assert!(done.reason().contains("Invalid API Key"), "{}", done.reason());
    assert!(done.stop().outcome() == tendril_broker::runner::Outcome::Failure);
}
