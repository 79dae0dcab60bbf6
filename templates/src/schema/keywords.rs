//! The keywords of the dialect, and which types each one speaks about.

use super::Type;

/// A keyword of the dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    Type,
    Const,
    Enum,
    Minimum,
    Maximum,
    ExclusiveMinimum,
    ExclusiveMaximum,
    MinLength,
    MaxLength,
    Pattern,
    Items,
    MinItems,
    MaxItems,
    UniqueItems,
    Properties,
    Required,
    AdditionalProperties,
    Default,
    Title,
    Description,
    Examples,
    Sensitive,
}

/// Spelling and meaning. Postgres refuses a schema with any other keyword, from the same list.
const TABLE: [(&str, Keyword, &[Type]); 22] = {
    use Keyword as K;
    const NUMBERS: &[Type] = &[Type::Number, Type::Integer];
    const TEXTS: &[Type] = &[Type::String];
    const LISTS: &[Type] = &[Type::Array];
    const OBJECTS: &[Type] = &[Type::Object];
    const ANY: &[Type] = &Type::ALL;
    [
        ("type", K::Type, ANY),
        ("const", K::Const, ANY),
        ("enum", K::Enum, ANY),
        ("minimum", K::Minimum, NUMBERS),
        ("maximum", K::Maximum, NUMBERS),
        ("exclusiveMinimum", K::ExclusiveMinimum, NUMBERS),
        ("exclusiveMaximum", K::ExclusiveMaximum, NUMBERS),
        ("minLength", K::MinLength, TEXTS),
        ("maxLength", K::MaxLength, TEXTS),
        ("pattern", K::Pattern, TEXTS),
        ("items", K::Items, LISTS),
        ("minItems", K::MinItems, LISTS),
        ("maxItems", K::MaxItems, LISTS),
        ("uniqueItems", K::UniqueItems, LISTS),
        ("properties", K::Properties, OBJECTS),
        ("required", K::Required, OBJECTS),
        ("additionalProperties", K::AdditionalProperties, OBJECTS),
        ("default", K::Default, ANY),
        ("title", K::Title, ANY),
        ("description", K::Description, ANY),
        ("examples", K::Examples, ANY),
        ("sensitive", K::Sensitive, ANY),
    ]
};

impl Keyword {
    pub(super) fn named(name: &str) -> Option<Keyword> {
        TABLE.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    /// The types of value that the keyword can say anything about.
    pub(super) fn speaks_of(self) -> &'static [Type] {
        TABLE.iter().find(|row| row.1 == self).map_or(&[], |row| row.2)
    }
}

/// All keywords, for messages.
pub(super) fn names() -> String {
    TABLE.map(|row| row.0).join(", ")
}
