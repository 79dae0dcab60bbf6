//! Settings that are taken, and those that are refused.

use super::*;

const SAMPLE: &str = include_str!("../../../docs/tendril-runner.toml");

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runner.toml");
    std::fs::write(&path, text).unwrap();
    let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::load(Some(&path), &find)
}

#[test]
fn the_documented_sample_is_valid_and_shows_the_defaults() {
    let config = load(SAMPLE, &[("TENDRIL_AGENT_TOKEN", "")]).unwrap();
    assert_eq!(config.slots, default_slots());
    assert_eq!(config.logs, Logs::default());
    assert_eq!(config.sandbox, sandbox::Settings::default());
    assert_eq!(config.egress, egress::Settings::default());
    assert_eq!(config.shutdown.finish_within_s, Shutdown::default().finish_within_s);
    assert_eq!(config.http.listen, Http::default().listen);
    let (tools, default) = (config.tools, Tools::default());
    assert_eq!((tools.path, tools.lock_timeout_s), (default.path, default.lock_timeout_s));
}

#[test]
fn the_environment_overrules_the_file() {
    let config = load(SAMPLE, &[("TENDRIL_SLOTS", "9"), ("TENDRIL_PLACE", "here")]).unwrap();
    assert_eq!((config.slots, config.place.as_deref()), (9, Some("here")));
}

#[test]
fn the_environment_alone_is_enough() {
    let set = [
        ("TENDRIL_DATABASE_URL", "postgres://127.0.0.1/t"),
        ("TENDRIL_ARTIFACT_KEY_FILE", "/k"),
        ("TENDRIL_STATE_DIR", "/s"),
    ];
    let find = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    assert_eq!(Config::load(None, &find).unwrap().state_dir, Path::new("/s"));
    let said = Config::load(None, &|_| None).unwrap_err().to_string();
    assert!(said.contains("database_url") && said.contains("TENDRIL_DATABASE_URL"), "{said}");
}

#[test]
fn wrong_values_and_unknown_keys_are_refused_by_name() {
    for (line, word) in [
        ("slotz = 4", "slotz"),
        ("slots = 0", "slots"),
        ("slots = \"many\"", "slots"),
        ("place = \"Here There\"", "place"),
        ("labels = [\"kind=exec\"]", "labels"),
        ("labels = [\"a b\"]", "labels"),
        ("[tools]\npass_env = [\"TENDRIL_AGENT_TOKEN\"]", "tools.pass_env"),
        ("[tools]\npass_env = [\"*\"]", "tools.pass_env"),
        ("kinds = [\"terraform.pln\"]", "terraform.pln"),
        ("[sandbox]\nmode = \"none\"", "sandbox"),
        ("[sandbox]\nprograms = [\"sh\"]", "sandbox.programs"),
        ("[sandbox]\nconnect = [0]", "sandbox.connect"),
        ("[sandbox]\nconnect = \"all\"", "sandbox.connect"),
        ("[sandbox]\nmax_processes = 1", "max_processes"),
        ("[egress]\nmode = \"on\"", "egress"),
        ("[egress]\nallow = [\"http://a\"]", "egress"),
        ("[egress]\nupstream = \"socks5://a:1\"", "egress.upstream"),
        ("[egress]\nmax_connections = 0", "egress.max_connections"),
        ("[egress]\ndirect_ports = [0]", "egress.direct_ports"),
        ("[secrets]\nenv = [\"TENDRIL_AGENT_TOKEN\"]", "secrets.env"),
        ("[secrets]\nfolders = [\"x\"]", "secrets.folders"),
        (
            "[secrets.vault]\naddress = \"http://vault.example.com\"\ntoken_file = \"/t\"\npaths = []",
            "secrets.vault.address",
        ),
        ("[git]\ntoken_file = \"/t\"", "git.token_hosts"),
        ("[tools]\nenv = {HOME = \"/root\"}", "tools.env"),
        ("[logs]\nflush_interval_ms = 1", "flush_interval_ms"),
        ("[logs]\nflushed = 1", "flushed"),
        ("[logs]\ncap_bytes = 1", "cap_bytes"),
        ("[logs]\nredact_env = [\"*\"]", "logs.redact_env"),
        ("[logs]\nredact_env = [\"MY-KEY\"]", "logs.redact_env"),
        ("[tools]\nterrafrom = []", "terrafrom"),
        ("[http]\nlisten = \"9464\"", "http.listen"),
        ("[http]\nlisten = \"localhost:http\"", "http.listen"),
        ("agent_token = \"x\"\nagent_token_file = \"/x\"", "agent_token"),
    ] {
        let text = format!(
            "database_url = \"postgres://127.0.0.1/t\"\nartifact_key_file = \"/k\"\nstate_dir = \"/s\"\n{line}\n"
        );
        let said = load(&text, &[]).unwrap_err().to_string();
        assert!(said.contains(word), "{line}: {said}");
    }
    assert!(load("state_dir = ", &[]).unwrap_err().to_string().contains("runner.toml"));
    assert!(load(SAMPLE, &[("TENDRIL_SLOTS", "many")]).unwrap_err().to_string().contains("TENDRIL_SLOTS"));
}

#[test]
fn a_broken_file_is_named_by_its_line_and_shows_no_token() {
    for (text, line) in [
        ("slots = 1\nagent_token = \"hunter2\nslots = 4\n", "line 2"),
        ("agent_token = \"hunter2\"\nagent_token = \"hunter2\"\n", "line 2"),
        ("agent_token = hunter2\n", "line 1"),
        ("agent_token = [\"hunter2\"]\n", "agent_token"),
    ] {
        let said = load(text, &[]).unwrap_err().to_string();
        assert!(said.contains(line) && said.contains("runner.toml") && !said.contains("hunter2"), "{text}: {said}");
    }
}

#[test]
fn a_bad_token_or_address_names_its_key() {
    let config = load(SAMPLE, &[("TENDRIL_AGENT_TOKEN", "hunter2"), ("TENDRIL_DATABASE_URL", "mysql://x")]).unwrap();
    // As the program prints it: the error with its causes, and nothing said twice.
    let said = |error: ConfigError| format!("{:#}", anyhow::Error::from(error));
    let token = said(config.token().unwrap_err());
    assert!(token.starts_with("agent_token: not an agent token") && !token.contains("hunter2"), "{token}");
    assert_eq!(token.matches("not an agent token").count(), 1, "{token}");
    let address = said(config.address().unwrap_err());
    assert!(address.starts_with("database_url: "), "{address}");
    assert_eq!(address.matches("it looks like").count(), 1, "{address}");
}

#[test]
fn a_folder_of_templates_that_is_not_there_is_named() {
    let mut config = load(SAMPLE, &[]).unwrap();
    config.check_files().unwrap();
    config.templates_dir = Some("/nowhere/templates".into());
    let said = config.check_files().unwrap_err().to_string();
    assert!(said.starts_with("templates_dir: cannot read /nowhere/templates: "), "{said}");
}
