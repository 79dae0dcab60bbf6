//! What common programs make of two of the values, as they printed it: nothing here is computed by the code under test.

/// A form of a value.
pub struct Form {
    /// Whose.
    pub of: &'static str,
    /// Who writes it so; others may, too.
    pub by: &'static str,
    /// As it is written.
    pub text: &'static str,
}

const fn form(of: &'static str, by: &'static str, text: &'static str) -> Form {
    Form { of, by, text }
}

/// With all that JSON and HTML escape.
pub const QUOTED: &str = "p@ss \"w\\rd\" <&> ü";
/// With all that URLs escape in one place and not in another.
pub const URL: &str = "t0k~n*a/b+c!d'(e)=f;g,h:i?j#k";

/// All forms.
pub const FORMS: &[Form] = &[
    form(QUOTED, "Python quote, PHP rawurlencode", "p%40ss%20%22w%5Crd%22%20%3C%26%3E%20%C3%BC"),
    form(QUOTED, "Python quote_plus, urlencode, Java URLEncoder", "p%40ss+%22w%5Crd%22+%3C%26%3E+%C3%BC"),
    form(QUOTED, "Python json.dumps", "p@ss \\\"w\\\\rd\\\" <&> \\u00fc"),
    form(QUOTED, "Python json.dumps, twice", "p@ss \\\\\\\"w\\\\\\\\rd\\\\\\\" <&> \\\\u00fc"),
    form(QUOTED, "base64", "cEBzcyAid1xyZCIgPCY+IMO8"),
    form(QUOTED, "base64 -url", "cEBzcyAid1xyZCIgPCY-IMO8"),
    form(QUOTED, "echo | base64", "cEBzcyAid1xyZCIgPCY+IMO8Cg=="),
    form(QUOTED, "JavaScript encodeURI, Go PathEscape, Go path", "p@ss%20%22w%5Crd%22%20%3C&%3E%20%C3%BC"),
    form(QUOTED, "browser password, Go userinfo", "p%40ss%20%22w%5Crd%22%20%3C&%3E%20%C3%BC"),
    form(QUOTED, "browser query", "p@ss%20%22w\\rd%22%20%3C&%3E%20%C3%BC"),
    form(QUOTED, "JavaScript JSON.stringify", "p@ss \\\"w\\\\rd\\\" <&> ü"),
    form(QUOTED, "JSON in JSON", "p@ss \\\\\\\"w\\\\\\\\rd\\\\\\\" <&> ü"),
    form(QUOTED, "Go json.Marshal", "p@ss \\\"w\\\\rd\\\" \\u003c\\u0026\\u003e ü"),
    form(QUOTED, "Go json.Marshal, twice", "p@ss \\\\\\\"w\\\\\\\\rd\\\\\\\" \\\\u003c\\\\u0026\\\\u003e ü"),
    form(URL, "Python quote", "t0k~n%2Aa/b%2Bc%21d%27%28e%29%3Df%3Bg%2Ch%3Ai%3Fj%23k"),
    form(URL, "Python quote(safe=''), PHP rawurlencode", "t0k~n%2Aa%2Fb%2Bc%21d%27%28e%29%3Df%3Bg%2Ch%3Ai%3Fj%23k"),
    form(URL, "Java URLEncoder, browser form", "t0k%7En*a%2Fb%2Bc%21d%27%28e%29%3Df%3Bg%2Ch%3Ai%3Fj%23k"),
    form(URL, "PHP urlencode", "t0k%7En%2Aa%2Fb%2Bc%21d%27%28e%29%3Df%3Bg%2Ch%3Ai%3Fj%23k"),
    form(URL, "base64", "dDBrfm4qYS9iK2MhZCcoZSk9ZjtnLGg6aT9qI2s="),
    form(URL, "base64 -url", "dDBrfm4qYS9iK2MhZCcoZSk9ZjtnLGg6aT9qI2s"),
    form(URL, "echo | base64", "dDBrfm4qYS9iK2MhZCcoZSk9ZjtnLGg6aT9qI2sK"),
    form(URL, "JavaScript encodeURIComponent", "t0k~n*a%2Fb%2Bc!d'(e)%3Df%3Bg%2Ch%3Ai%3Fj%23k"),
    form(URL, "browser password", "t0k~n*a%2Fb+c!d'(e)%3Df%3Bg,h%3Ai%3Fj%23k"),
    form(URL, "browser query", "t0k~n*a/b+c!d%27(e)=f;g,h:i?j%23k"),
    form(URL, "browser path", "t0k~n*a/b+c!d'(e)=f;g,h:i%3Fj%23k"),
    form(URL, "Go PathEscape", "t0k~n%2Aa%2Fb+c%21d%27%28e%29=f%3Bg%2Ch:i%3Fj%23k"),
    form(URL, "Go path", "t0k~n%2Aa/b+c%21d%27%28e%29=f;g,h:i%3Fj%23k"),
    form(URL, "Go userinfo", "t0k~n%2Aa%2Fb+c%21d%27%28e%29=f;g,h%3Ai%3Fj%23k"),
];
