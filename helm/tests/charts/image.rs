//! The Containerfile agrees with what stands elsewhere: versions, checksums, users, paths.

use crate::chart::{read, yaml};

const DEV: &str = include_str!("../../../dev");
const TOOLCHAIN: &str = include_str!("../../../rust-toolchain.toml");

/// The value that a line `NAME=value` has.
fn assigned<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim_start_matches("ARG ").strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("{name} is not assigned"))
}

#[test]
fn the_containerfile_takes_the_versions_that_the_tree_pins() {
    let file = read("Containerfile");
    let toolchain: toml::Table = TOOLCHAIN.parse().unwrap();
    let rust = toolchain["toolchain"]["channel"].as_str().unwrap();
    assert!(assigned(&file, "RUST_IMAGE").contains(&format!("rust:{rust}-")), "{rust}");
    assert_eq!(assigned(&file, "TOFU_SHA512"), assigned(DEV, "tofu_sha512"));
    assert_eq!(assigned(&file, "TERRAFORM_SHA256"), assigned(DEV, "terraform_sha256"));
    assert!(assigned(&file, "TOFU_URL").contains(assigned(DEV, "tofu_version")));
    assert!(assigned(&file, "TERRAFORM_URL").contains(assigned(DEV, "terraform_version")));
}

#[test]
fn images_hold_the_programs_that_a_release_compares() {
    let (file, release, sbom) =
        (read("Containerfile"), read("../runner/scripts/release.sh"), read("../runner/scripts/sbom.sh"));
    assert!(file.contains("helm/programs.sh /out/bin") && !file.contains("cargo build"));
    assert!(release.contains("helm/programs.sh\"") && !release.contains("cargo build"));
    let programs = read("programs.sh");
    let named = assigned(&programs, "programs").trim_matches(['(', ')']);
    assert_eq!(named, assigned(&release, "programs").trim_matches(['(', ')']));
    assert!(sbom.contains(&format!("for program in {named}; do")), "{named}");
    for program in named.split(' ') {
        assert!(file.contains(&format!("/out/bin/{program} ")), "{program}");
    }
}

#[test]
fn images_and_charts_mean_the_same_user_version_and_places() {
    let file = read("Containerfile");
    for chart in ["tendril-runner", "tendril"] {
        let about = yaml(&read(&format!("{chart}/Chart.yaml")));
        assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"), "{chart}");
        assert_eq!(assigned(&file, "VERSION"), env!("CARGO_PKG_VERSION"));
        let values = yaml(&read(&format!("{chart}/values.yaml")));
        for key in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert_eq!(values["podSecurity"][key], 10001, "{chart}: {key}");
        }
    }
    assert_eq!(file.matches("USER 10001:10001").count(), 2);
    let settings = read("tendril-runner/templates/_settings.tpl");
    assert!(settings.contains("\"/usr/share/tendril/templates\"") && file.contains("/usr/share/tendril/templates/"));
}
