//! Random schemas within the dialect with values that have a fair chance to fit them.
//!
//! Both come as JSON text, so that each checker reads the decimals for itself.

use proptest::collection::{btree_set, vec};
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use tendril_templates::Schema;

#[derive(Debug, Clone)]
pub struct Pair {
    pub schema: String,
    pub value: String,
}

/// `count` pairs whose schema is taken by `Schema::parse`; the same ones at every run.
pub fn pairs(count: usize) -> Vec<Pair> {
    let mut runner = TestRunner::deterministic();
    let strategy = (schema(3), vec(value(3), 4));
    let mut pairs = Vec::new();
    while pairs.len() < count {
        let (schema, values) = strategy.new_tree(&mut runner).expect("nothing is filtered").current();
        let schema = format!(r#"{{"type":"object","additionalProperties":false,"properties":{{"v":{schema}}}}}"#);
        let read: Value = serde_json::from_str(&schema).unwrap_or_else(|e| panic!("{schema}: {e}"));
        if Schema::parse(&read, "inputs").is_err() {
            continue;
        }
        for value in values {
            pairs.push(Pair { schema: schema.clone(), value: format!(r#"{{"v":{value}}}"#) });
        }
    }
    pairs
}

const KEYS: [&str; 5] = ["a", "b", "B", "a.b", "é"];
const NUMBERS: [&str; 24] = [
    "0",
    "-0",
    "-0.0",
    "1",
    "1.0",
    "2",
    "3",
    "1e0",
    "10e-1",
    "0.1",
    "0.10",
    "0.1000000000000000000001",
    "-1",
    "2.5",
    "1e-320",
    "1e-400",
    "1e-300",
    "9007199254740991",
    "9007199254740991.4",
    "9007199254740991.5",
    "9007199254740993",
    "1e22",
    "-1e300",
    "123456789.123456789123456789",
];
const TEXTS: [&str; 14] =
    ["", "a", "ab", "abc", "b", "é", "😀", "a\n", "\n", "a-b", "]", "a\\b", "e\u{301}", "aaaaaaaaaa"];

/// Values of which two are often equal, for `const` and `enum`.
const FEW: [&str; 11] =
    ["1", "1.0", "\"1\"", "\"a\"", "\"é\"", "true", "false", "null", "[\"a\",1]", "[\"a\",1.0]", "{\"a\":1}"];

fn few() -> BoxedStrategy<String> {
    select(&FEW[..]).prop_map(str::to_owned).boxed()
}

fn number() -> BoxedStrategy<String> {
    select(&NUMBERS[..]).prop_map(str::to_owned).boxed()
}

fn text() -> BoxedStrategy<String> {
    let texts = prop_oneof![select(&TEXTS[..]).prop_map(str::to_owned), "[ab\\-\\]\\^\n.é]{0,6}"];
    texts.prop_map(|text| quoted(&text)).boxed()
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn value(depth: u32) -> BoxedStrategy<String> {
    let scalar = prop_oneof![
        3 => number(),
        3 => text(),
        1 => select(&["true", "false", "null"][..]).prop_map(str::to_owned),
    ];
    if depth == 0 {
        return scalar.boxed();
    }
    let list = vec(value(depth - 1), 0..4).prop_map(|items| format!("[{}]", items.join(",")));
    let object = (subsequence(KEYS.to_vec(), 0..=4), vec(value(depth - 1), 5)).prop_map(|(keys, values)| {
        let entries: Vec<_> = keys.iter().zip(values).map(|(k, v)| format!("{}:{v}", quoted(k))).collect();
        format!("{{{}}}", entries.join(","))
    });
    prop_oneof![3 => scalar, 3 => few(), 2 => list, 2 => object].boxed()
}

/// A pattern of the dialect by construction, or a random text that may happen to be one.
fn pattern() -> BoxedStrategy<String> {
    let atom = prop_oneof![select(
        &["a", "b", "é", ".", "[ab]", "[^a]", "[a-c]", "[-a]", "[\\]\\-]", "\\.", "\\\\", "(a|b)", "(?:ab)", "😀"][..]
    )];
    let repeat = select(&["", "", "", "*", "+", "?", "{2}", "{1,}", "{0,2}"][..]);
    let branch =
        vec((atom, repeat), 1..5).prop_map(|parts| parts.iter().map(|(a, r)| format!("{a}{r}")).collect::<String>());
    let built = (any::<bool>(), vec(branch, 1..3), any::<bool>()).prop_map(|(start, branches, end)| {
        let (start, end) = (if start { "^" } else { "" }, if end { "$" } else { "" });
        format!("{start}{}{end}", branches.join("|"))
    });
    prop_oneof![2 => built, 1 => "[a-c^$.|?*+()\\[\\]{}\\\\,12é&~\\-:<>/ ]{1,9}"].prop_map(|p| quoted(&p)).boxed()
}

/// Some of the given keywords, each with a value of its own.
fn rules(parts: Vec<(&'static str, BoxedStrategy<String>)>) -> BoxedStrategy<Vec<String>> {
    let count = parts.len();
    let parts: Vec<_> =
        parts.into_iter().map(|(name, value)| value.prop_map(move |value| format!("\"{name}\":{value}"))).collect();
    (parts, btree_set(0..count, 0..=count.min(3)))
        .prop_map(|(parts, keep)| keep.into_iter().map(|i| parts[i].clone()).collect())
        .boxed()
}

fn count() -> BoxedStrategy<String> {
    select(&["0", "1", "2.0", "3"][..]).prop_map(str::to_owned).boxed()
}

fn fixed() -> BoxedStrategy<Vec<String>> {
    let one = || prop_oneof![4 => few(), 1 => value(1)];
    let some = vec(one(), 1..4).prop_map(|values| format!("[{}]", values.join(",")));
    rules(vec![("const", one().boxed()), ("enum", some.boxed())])
}

fn schema(depth: u32) -> BoxedStrategy<String> {
    let numbers = rules(vec![
        ("minimum", number()),
        ("maximum", number()),
        ("exclusiveMinimum", number()),
        ("exclusiveMaximum", number()),
    ]);
    let texts = rules(vec![("minLength", count()), ("maxLength", count()), ("pattern", pattern())]);
    let typed = |types: &'static [&'static str], rules: BoxedStrategy<Vec<String>>| {
        (select(types), rules).prop_map(|(kind, mut rules)| {
            if !kind.is_empty() {
                rules.push(format!("\"type\":{kind}"));
            }
            format!("{{{}}}", rules.join(","))
        })
    };
    let scalars = prop_oneof![
        typed(&["\"number\"", "\"integer\"", "[\"integer\",\"null\"]", ""], numbers),
        typed(&["\"string\"", "[\"string\",\"boolean\"]", ""], texts),
        typed(&["", "\"boolean\"", "\"null\"", "[\"object\",\"array\"]"], Just(Vec::new()).boxed()),
        typed(&[""], fixed()),
    ];
    if depth == 0 {
        return scalars.boxed();
    }
    let lists = rules(vec![
        ("minItems", count()),
        ("maxItems", count()),
        ("uniqueItems", select(&["true", "true", "false"][..]).prop_map(str::to_owned).boxed()),
        ("items", schema(depth - 1)),
    ]);
    let objects = (subsequence(KEYS.to_vec(), 1..=5), vec(schema(depth - 1), 5), any::<[bool; 5]>(), any::<bool>())
        .prop_map(|(keys, schemas, required, closed)| {
            let properties: Vec<_> = keys.iter().zip(schemas).map(|(k, s)| format!("{}:{s}", quoted(k))).collect();
            let required: Vec<_> = keys.iter().zip(required).filter(|(_, r)| *r).map(|(k, _)| quoted(k)).collect();
            vec![
                format!("\"properties\":{{{}}}", properties.join(",")),
                format!("\"required\":[{}]", required.join(",")),
                format!("\"additionalProperties\":{}", !closed),
            ]
        });
    prop_oneof![
        2 => scalars,
        2 => typed(&["\"array\"", "[\"array\",\"string\"]", ""], lists),
        2 => typed(&["\"object\"", ""], objects.boxed()),
    ]
    .boxed()
}
