//! A configuration's text with a connection more or less: spliced, so that every other byte stays.
//!
//! Whether the result makes sense is for `config` to say; nothing here reads or writes a file.

use std::ops::Range;

use toml_edit::{Array, ArrayOfTables, Document, DocumentMut, Item, Table, TomlError, Value};

/// A text that could not be edited.
#[derive(Debug)]
pub(super) enum Unedited {
    /// No TOML. `config` says where and why, and quotes no line that may hold a secret.
    NoToml,
    /// There is no such connection; the names there are.
    Unknown(Vec<String>),
    /// More than one has the name.
    Ambiguous,
}

impl From<TomlError> for Unedited {
    fn from(_: TomlError) -> Self {
        Self::NoToml
    }
}

/// A text without one of its connections.
#[derive(Debug)]
pub(super) struct Removed {
    /// What is left.
    pub(super) text: String,
    /// The file its secret is in, which is left where it is.
    pub(super) secret_file: Option<String>,
    /// How many connections are left.
    pub(super) left: usize,
}

/// Whether the text says where events go. A file that only says what is polled publishes to stdout.
pub(super) fn has_output(text: &str) -> Result<bool, Unedited> {
    let document = Document::parse(text)?;
    let tables = ["transport", "local", "kafka", "nats"];
    Ok(tables.iter().any(|table| document.as_table().contains_key(table)))
}

/// The text with `connection` behind the connections it has and `output` at its end.
pub(super) fn add(text: &str, connection: &Table, output: Option<&DocumentMut>) -> Result<String, Unedited> {
    let document = Document::parse(text)?;
    let mut added = match document.as_table().get("connections") {
        Some(Item::Value(Value::Array(_))) => add_to_list(text, connection)?,
        item => {
            let place = item.and_then(Item::as_array_of_tables).and_then(|connections| {
                let last = headers(connections.iter().last()?, text);
                let next =
                    next(&headers(document.as_table(), text), last.iter().map(|own| own.start).max()?)?;
                Some(attached(text, next))
            });
            let mut tables = ArrayOfTables::new();
            tables.push(connection.clone());
            let mut part = DocumentMut::new();
            part.insert("connections", Item::ArrayOfTables(tables));
            insert(text, place.unwrap_or(text.len()), &part.to_string())
        }
    };
    if let Some(output) = output {
        added = insert(&added, added.len(), &output.to_string());
    }
    Ok(added)
}

/// `connections = [{ ... }]`: a list in one value.
fn add_to_list(text: &str, connection: &Table) -> Result<String, Unedited> {
    let mut document: DocumentMut = text.parse()?;
    if let Some(list) = document["connections"].as_array_mut() {
        let mut value = Value::InlineTable(inline(connection));
        // In the way of the one before, which may stand on a line of its own.
        if let Some(decor) = list.iter().last().map(Value::decor) {
            let prefix = decor.prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
            let alone = list.len() == 1 && prefix.is_empty();
            value.decor_mut().set_prefix(if alone { " ".to_owned() } else { prefix });
        }
        list.push_formatted(value);
    }
    Ok(document.to_string())
}

/// A table in braces, and the tables in it.
fn inline(table: &Table) -> toml_edit::InlineTable {
    let mut flat = toml_edit::InlineTable::new();
    for (key, item) in table {
        match item {
            Item::Value(value) => flat.insert(key, value.clone()),
            Item::Table(table) => flat.insert(key, Value::InlineTable(inline(table))),
            Item::None | Item::ArrayOfTables(_) => None,
        };
    }
    flat
}

/// The text without the connection of this name, and without the comments that belong to it.
///
/// | comment | goes with it |
/// |---|---|
/// | right above its header, but for the first lines of the file | yes |
/// | inside of it | yes |
/// | below it, behind an empty line | no |
pub(super) fn remove(text: &str, name: &str) -> Result<Removed, Unedited> {
    let document = Document::parse(text)?;
    let item = document.as_table().get("connections");
    let names: Vec<_> = match item {
        Some(Item::ArrayOfTables(tables)) => tables.iter().map(|table| name_of(table.get("name"))).collect(),
        Some(Item::Value(Value::Array(list))) => list.iter().map(name_in_list).collect(),
        _ => Vec::new(),
    };
    let found: Vec<_> = (0..names.len()).filter(|index| names[*index].as_deref() == Some(name)).collect();
    let index = match found.as_slice() {
        [index] => *index,
        [] => return Err(Unedited::Unknown(names.into_iter().flatten().collect())),
        _ => return Err(Unedited::Ambiguous),
    };
    let left = names.len() - 1;
    if let Some(Item::ArrayOfTables(tables)) = item {
        let table = tables.get(index).expect("it has a name");
        let secret_file = secret_file(table.get("credentials").and_then(Item::as_table_like));
        let all = headers(document.as_table(), text);
        let end = document.trailing().span().map_or(text.len(), |trailing| trailing.start);
        let mut left_over = text.to_owned();
        let mut own = headers(table, text);
        own.sort_unstable_by_key(|header| header.start);
        let is_last = own.last().is_some_and(|header| next(&all, header.start).is_none());
        for header in own.into_iter().rev() {
            left_over.replace_range(region(text, &all, header, end), "");
        }
        let one_line_end = left_over.trim_end_matches(['\r', '\n']).len() + eol(text).len();
        if is_last && one_line_end < left_over.len() {
            left_over.truncate(one_line_end);
        }
        return Ok(Removed { text: left_over, secret_file, left });
    }
    let mut document: DocumentMut = text.parse()?;
    let list = document["connections"].as_array_mut().map(|list| take(list, index));
    let credentials =
        list.as_ref().and_then(Value::as_inline_table).and_then(|table| table.get("credentials"));
    let secret_file = secret_file(credentials.and_then(Value::as_inline_table).map(|table| table as _));
    Ok(Removed { text: document.to_string(), secret_file, left })
}

/// Takes a value out of a list; the next first one stands where the first one stood.
fn take(list: &mut Array, index: usize) -> Value {
    let taken = list.remove(index);
    if index == 0
        && let Some(first) = list.get_mut(0)
        && let Some(prefix) = taken.decor().prefix()
    {
        first.decor_mut().set_prefix(prefix.clone());
    }
    taken
}

fn name_of(item: Option<&Item>) -> Option<String> {
    item.and_then(Item::as_str).map(str::to_owned)
}

fn name_in_list(value: &Value) -> Option<String> {
    value.as_inline_table()?.get("name")?.as_str().map(str::to_owned)
}

fn secret_file(credentials: Option<&dyn toml_edit::TableLike>) -> Option<String> {
    name_of(credentials?.get("secret_access_key_file"))
}

/// Where a table begins.
#[derive(Clone, Copy)]
struct Header {
    /// Its `[`.
    start: usize,
    /// Where the comments and empty lines above it begin. What looks like a comment before that is
    /// part of a text in several lines.
    above: usize,
}

/// The headers of a table and of all tables in it; of the whole file, where it is the root.
fn headers(table: &Table, text: &str) -> Vec<Header> {
    let mut found = Vec::new();
    collect(table, text, &mut found);
    found
}

fn collect(table: &Table, text: &str, found: &mut Vec<Header>) {
    // Tables that are only there by dots or by what is in them have no header.
    let start = table.span().map(|span| span.start).filter(|start| text[*start..].starts_with('['));
    found.extend(start.map(|start| {
        let above = table.decor().prefix().and_then(toml_edit::RawString::span);
        Header { start, above: above.map_or(start, |above| above.start) }
    }));
    for (_, item) in table {
        match item {
            Item::Table(table) => collect(table, text, found),
            Item::ArrayOfTables(tables) => tables.iter().for_each(|table| collect(table, text, found)),
            Item::None | Item::Value(_) => {}
        }
    }
}

/// The header that ends a table.
fn next(headers: &[Header], start: usize) -> Option<Header> {
    headers.iter().copied().filter(|other| other.start > start).min_by_key(|other| other.start)
}

/// From a header's comments to the next one's, but for comments that stand alone. `end` is where what
/// the last table says ends.
fn region(text: &str, headers: &[Header], header: Header, end: usize) -> Range<usize> {
    let start = match attached(text, header) {
        // What a file begins with is about the file.
        0 => line_start(text, header.start),
        start => start,
    };
    let (said, end) = match next(headers, header.start) {
        Some(next) => (next.above, attached(text, next)),
        None => (end, text.len()),
    };
    // Back over comments and empty lines to the last line that says something.
    let (mut place, mut keep) = (end, end);
    while place > said {
        let before = line_start(text, place - 1);
        if text[before..place].trim().is_empty() && text[place..end].trim_start().starts_with('#') {
            keep = place;
        }
        place = before;
    }
    start..keep
}

/// The start of the comment lines right above a header, or of its own line.
fn attached(text: &str, header: Header) -> usize {
    let mut start = line_start(text, header.start);
    while start > header.above {
        let before = line_start(text, start - 1);
        if !text[before..start].trim_start().starts_with('#') {
            break;
        }
        start = before;
    }
    start
}

fn line_start(text: &str, place: usize) -> usize {
    text[..place].rfind('\n').map_or(0, |newline| newline + 1)
}

/// One insertion, with an empty line before and behind where there is anything.
fn insert(text: &str, place: usize, part: &str) -> String {
    let eol = eol(text);
    let (before, behind) = text.split_at(place);
    let mut all = before.to_owned();
    if !before.is_empty() && !before.ends_with('\n') {
        all.push_str(eol);
    }
    let last = all.trim_end_matches(['\n', '\r']).len();
    if !all.is_empty() && !all[last..].replace('\r', "").starts_with("\n\n") {
        all.push_str(eol);
    }
    for line in part.trim().lines() {
        all.push_str(line);
        all.push_str(eol);
    }
    if !behind.is_empty() {
        all.push_str(eol);
    }
    all + behind
}

fn eol(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(name: &str) -> Table {
        let mut credentials = Table::new();
        credentials["kind"] = toml_edit::value("profile");
        let mut table = Table::new();
        table["name"] = toml_edit::value(name);
        table["credentials"] = Item::Table(credentials);
        table
    }

    const NEW: &str = "[[connections]]\nname = \"new\"\n\n[connections.credentials]\nkind = \"profile\"\n";

    fn output() -> DocumentMut {
        "[local]\noutput = \"-\"\n".parse().unwrap()
    }

    #[test]
    fn a_connection_comes_behind_the_others_and_nothing_else_moves() {
        let check = |before: &str, behind: &str| {
            let text = format!("{before}{behind}");
            let added = add(&text, &connection("new"), None).unwrap();
            let gap = if before.is_empty() { "" } else { "\n" };
            let separator = if behind.is_empty() { "" } else { "\n" };
            assert_eq!(added, format!("{before}{gap}{NEW}{separator}{behind}"), "{text}");
        };
        check("", "");
        check("# mine\n[poll]\ninterval = \"4h\" # often\n", "");
        check("[[connections]]\nname = \"a\"\n# account_id = \"1\"\n", "");
        check("[[connections]]\nname = \"a\"\n[connections.credentials] # whose\nkind = 'default'\n", "");
        let before = "[[connections]]\nname = \"a\"\n#granularity = [\"hourly\"]\n";
        let text = format!("{before}\n# Where it goes.\n# Really.\n[local]\noutput = \"-\"\n");
        let added = add(&text, &connection("new"), None).unwrap();
        assert_eq!(added, format!("{before}\n{NEW}\n{}", &text[before.len() + 1..]));
        // Connections in two places: behind the last.
        let text = "[[connections]]\nname = \"a\"\n\n[poll]\n\n[[connections]]\nname = \"b\"\n\n[admin]\n";
        let added = add(text, &connection("new"), None).unwrap();
        assert_eq!(added, text.replace("[admin]", &format!("{NEW}\n[admin]")));
    }

    #[test]
    fn line_ends_are_those_of_the_file_and_a_missing_one_is_added() {
        let added = add("[poll]\r\ninterval = \"4h\"\r\n", &connection("new"), None).unwrap();
        assert_eq!(added, format!("[poll]\r\ninterval = \"4h\"\r\n\r\n{}", NEW.replace('\n', "\r\n")));
        let added = add("[poll]", &connection("new"), Some(&output())).unwrap();
        assert_eq!(added, format!("[poll]\n\n{NEW}\n[local]\noutput = \"-\"\n"));
    }

    #[test]
    fn a_list_in_brackets_stays_one() {
        for (text, expected) in [
            (
                "connections = [{ name = \"a\" }] # all\n",
                "connections = [{ name = \"a\" }, { name = \"new\", credentials = { kind = \"profile\" } }] # all\n",
            ),
            (
                "connections = [\n  { name = \"a\" },\n]\n",
                "connections = [\n  { name = \"a\" },\n  { name = \"new\", credentials = { kind = \"profile\" } },\n]\n",
            ),
            (
                "connections = []\n",
                "connections = [{ name = \"new\", credentials = { kind = \"profile\" } }]\n",
            ),
        ] {
            let added = add(text, &connection("new"), None).unwrap();
            assert_eq!(added, expected);
            assert_eq!(remove(&added, "new").unwrap().text, text);
        }
        let text = "connections = [{ name = \"a\" }, { name = \"b\" }]\n";
        assert_eq!(remove(text, "a").unwrap().text, "connections = [{ name = \"b\" }]\n");
    }

    #[test]
    fn what_is_added_and_removed_again_leaves_no_trace() {
        for text in [
            "",
            "# head\n\n[poll]\ninterval = \"4h\"\n",
            "[[connections]]\nname = \"a\"\n",
            "[[connections]]\nname = \"a\"\n# note\n\n# Where it goes.\n[local]\noutput = \"-\"\n",
            "[[connections]]\r\nname = \"a\"\r\n\r\n[local]\r\noutput = \"-\"\r\n",
        ] {
            let added = add(text, &connection("new"), None).unwrap();
            assert_eq!(remove(&added, "new").unwrap().text, text);
        }
    }

    #[test]
    fn comments_go_with_what_they_are_about() {
        let text = "\
# The file.

# The first.
[[connections]]
name = \"a\"
#account_id = \"\"
[connections.credentials]
kind = \"keys\" # a user's
secret_access_key_file = \"a.secret\"
# of a

# About what follows.

# The second.
[[connections]]
name = \"b\"

[local]
output = \"-\"
";
        let removed = remove(text, "a").unwrap();
        assert_eq!((removed.left, removed.secret_file.as_deref()), (1, Some("a.secret")));
        let start = text.find("# The first.").unwrap();
        let end = text.find("# About").unwrap();
        assert_eq!(removed.text, format!("{}{}", &text[..start], &text[end..]));
        let removed = remove(text, "b").unwrap();
        let (start, end) = (text.find("# The second.").unwrap(), text.find("[local]").unwrap());
        assert_eq!(removed.text, format!("{}{}", &text[..start], &text[end..]));
        // The first lines of a file are about the file, even where no empty line says so.
        let text = "#:schema ./x.json\n[[connections]]\nname = \"a\"\n";
        assert_eq!(remove(text, "a").unwrap().text, "#:schema ./x.json\n");
    }

    #[test]
    fn tables_of_a_connection_are_found_wherever_they_are() {
        let text = "[[connections]]\nname = \"a\"\n\n[poll]\n\n[connections.credentials]\nkind = \"default\"\n\n[admin]\n";
        assert_eq!(remove(text, "a").unwrap().text, "[poll]\n\n[admin]\n");
        let text = "[[connections]]\nname = \"a\"\nfilter.record_types = [\"Tax\"]\ncredentials.kind = \"default\"\n\n[admin]\n";
        assert_eq!(remove(text, "a").unwrap().text, "[admin]\n");
    }

    /// The end of a text in several lines is no comment, whatever it looks like.
    #[test]
    fn what_only_looks_like_a_comment_stays_where_it_is() {
        let connection = |name: &str| {
            format!(
                "[[connections]]\nname = \"{name}\"\n[connections.credentials]\nkind = \"\"\"\n\n# not\"\"\"\n"
            )
        };
        let text = format!("{}[local]\n", connection("a"));
        let added = add(&text, &super::tests::connection("new"), None).unwrap();
        assert_eq!(added, text.replace("[local]", &format!("\n{NEW}\n[local]")));
        assert_eq!(remove(&text, "a").unwrap().text, "[local]\n");
        let text = format!("[local]\n\n{}", connection("a"));
        assert_eq!(remove(&text, "a").unwrap().text, "[local]\n");
    }

    #[test]
    fn names_that_are_not_there_or_there_twice_are_refused() {
        let text =
            "[[connections]]\nname = \"a\"\n[[connections]]\nname = \"b\"\n[[connections]]\nname = \"b\"\n";
        assert!(matches!(remove(text, "c"), Err(Unedited::Unknown(names)) if names == ["a", "b", "b"]));
        assert!(matches!(remove(text, "b"), Err(Unedited::Ambiguous)));
        assert!(matches!(remove("[a", "b"), Err(Unedited::NoToml)));
        assert!(matches!(add("a = ", &connection("new"), None), Err(Unedited::NoToml)));
    }

    #[test]
    fn an_output_is_where_one_of_its_tables_is() {
        for (text, expected) in [
            ("", false),
            ("[[connections]]\nname = \"a\"\n[poll]\n", false),
            ("# [local]\n", false),
            ("[local]\n", true),
            ("transport.kind = \"kafka\"\n", true),
        ] {
            assert_eq!(has_output(text).unwrap(), expected, "{text}");
        }
    }
}
