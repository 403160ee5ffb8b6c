//! The reference of all configurations for operators, `docs/operations/configuration.md`: made of the tables, and held against
//! them. `MILLSTREAM_WRITE_REFERENCE=1 cargo test -p millstream --lib reference` writes it anew.

use std::fmt::Write;

use millstream_replication::config::{ConfigDefinition, ConfigType, Served, Valid, broker_configs, topic_configs};

use super::DEFAULTS;
use super::tests::{matches, without_effect};

/// The line of the document behind which everything is made here.
const MARK: &str = "<!-- Below this line: made of the tables by a test, which says how. -->\n";
/// What is our own.
const OURS: &str = "millstream.";

/// A definition's place in the reference.
fn is_honoured(definition: &ConfigDefinition) -> bool {
    definition.served == Served::Honoured
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn kind(definition: &ConfigDefinition) -> &'static str {
    match definition.kind {
        ConfigType::Boolean => "boolean",
        ConfigType::String => "text",
        ConfigType::Int => "int",
        ConfigType::Short => "short",
        ConfigType::Long => "long",
        ConfigType::Double => "number",
        ConfigType::List => "list",
        ConfigType::Class => "class",
        ConfigType::Password => "password",
    }
}

/// The default in force, and Kafka's where that is another.
fn default(definition: &ConfigDefinition) -> String {
    let shown = |value: Option<&str>| match value {
        None => "none".to_owned(),
        Some("") => "empty".to_owned(),
        Some(value) => code(value),
    };
    let of_kafka = shown(definition.default);
    match DEFAULTS.iter().find(|(name, _)| *name == definition.name) {
        Some((_, ours)) => format!("{} (Kafka: {of_kafka})", code(ours)),
        None => of_kafka,
    }
}

/// What a value may be: its type, and its bounds where there are any.
fn values(definition: &ConfigDefinition) -> String {
    let kind = kind(definition);
    let names = |names: &[&str]| names.iter().map(|name| code(name)).collect::<Vec<_>>().join(", ");
    match definition.valid {
        Valid::Any => kind.to_owned(),
        Valid::AtLeast(least) => format!("{kind}, {least} or more"),
        Valid::Range(least, most) => format!("{kind}, {least} to {most}"),
        Valid::GzipLevel => format!("{kind}, -1 or 1 to 9"),
        Valid::Fraction => format!("{kind}, 0 to 1"),
        Valid::OneOf(allowed) | Valid::OneOfAnyCase(allowed) => format!("one of {}", names(allowed)),
        Valid::EachOf(allowed) => format!("list of {}", names(allowed)),
        Valid::Single => "one entry".to_owned(),
        Valid::CountOfAddresses => "list of `ADDRESS:COUNT`".to_owned(),
    }
}

/// What a configuration is about, without what is said of its lack of effect elsewhere in the row.
fn about(definition: &ConfigDefinition) -> String {
    let text = definition.documentation;
    let about = text.split_once(" No effect").map_or(text, |(about, _)| about);
    about.replace('|', "\\|").replace('*', "\\*")
}

/// Rows of what is honoured.
fn honoured(into: &mut String, definitions: &[&ConfigDefinition]) {
    into.push_str("| name | value | default | changed | effect |\n|---|---|---|---|---|\n");
    for definition in definitions {
        let changed = if definition.dynamic { "while it runs" } else { "at start" };
        let mut effect = about(definition);
        if let Some(first) = definition.synonyms.first()
            && *first != definition.name
        {
            let all: Vec<String> = definition.synonyms.iter().map(|name| code(name)).collect();
            write!(effect, " The broker's default: {}.", all.join(", ")).expect("a string takes everything");
        }
        let (name, values, default) = (code(definition.name), values(definition), default(definition));
        writeln!(into, "| {name} | {values} | {default} | {changed} | {effect} |").expect("a string takes everything");
    }
}

/// Everything that is made of the tables.
fn reference() -> String {
    let mut text = String::new();
    let of = |table: &'static [ConfigDefinition], wanted: fn(&ConfigDefinition) -> bool| -> Vec<&ConfigDefinition> {
        table.iter().filter(|definition| wanted(definition)).collect()
    };
    let both =
        |wanted: fn(&ConfigDefinition) -> bool| [of(topic_configs(), wanted), of(broker_configs(), wanted)].concat();

    text.push_str("\n## Millstream's own\n\n");
    honoured(&mut text, &of(broker_configs(), |definition| definition.name.starts_with(OURS)));
    text.push_str("\n## Topics\n\n");
    honoured(&mut text, &of(topic_configs(), is_honoured));
    text.push_str("\n## Brokers and controllers\n\n");
    honoured(&mut text, &of(broker_configs(), |it| is_honoured(it) && !it.name.starts_with(OURS)));

    text.push_str("\n## Refused\n\nAny value but the default is refused: to ignore it would mislead.\n\n");
    text.push_str("| name | default | about | why |\n|---|---|---|---|\n");
    for definition in both(|definition| matches!(definition.served, Served::Refused(_))) {
        let Served::Refused(why) = definition.served else { unreachable!("it was filtered") };
        let (name, default, about) = (code(definition.name), default(definition), about(definition));
        writeln!(text, "| {name} | {default} | {about} | {why} |").expect("a string takes everything");
    }

    text.push_str("\n## Without effect\n\nTaken, stored and shown, because files that hold them must start.\n\n");
    text.push_str("| name | default | about | why it has no effect |\n|---|---|---|---|\n");
    let mut accepted = both(|definition| definition.served == Served::Accepted);
    accepted.sort_by_key(|definition| definition.name);
    accepted.dedup_by_key(|definition| definition.name);
    let rows = without_effect();
    for definition in accepted {
        let row = rows.iter().find(|(pattern, _)| matches(pattern, definition.name));
        let (_, why) = row.unwrap_or_else(|| panic!("nothing says why {} has no effect", definition.name));
        // Links there are seen from one directory further up.
        let why = why.replace("](", "](../");
        let (name, default, about) = (code(definition.name), default(definition), about(definition));
        writeln!(text, "| {name} | {default} | {about} | {why} |").expect("a string takes everything");
    }
    text
}

#[test]
fn the_reference_of_configurations_is_that_of_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations/configuration.md");
    let document = std::fs::read_to_string(path).expect("the reference is there");
    let (head, made) = document.split_once(MARK).expect("the reference has its mark");
    let expected = reference();
    if std::env::var_os("MILLSTREAM_WRITE_REFERENCE").is_some() {
        std::fs::write(path, format!("{head}{MARK}{expected}")).expect("written");
        return;
    }
    // Line by line: a difference is one row then, and not the whole document.
    for (line, expected) in made.lines().zip(expected.lines()) {
        assert_eq!(line, expected, "MILLSTREAM_WRITE_REFERENCE=1 writes {path} anew");
    }
    assert_eq!(made.len(), expected.len(), "MILLSTREAM_WRITE_REFERENCE=1 writes {path} anew");
}

#[test]
fn every_configuration_is_in_the_reference() {
    let reference = reference();
    for definition in broker_configs().iter().chain(topic_configs()) {
        let row = format!("\n| `{}` |", definition.name);
        assert!(reference.contains(&row), "{} is missing", definition.name);
    }
}
