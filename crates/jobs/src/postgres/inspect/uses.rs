//! What a statement does with a column, as far as its words tell. This is no parser: it splits a statement into words
//! and looks at what stands beside the column, so it may name too much. Literals and comments are thrown away first,
//! and nothing of the text ever leaves this module.

use std::collections::BTreeSet;

/// A way of using a column that an envelope breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Equality,
    Order,
    Pattern,
    Group,
    Expression,
    Join,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Lower case, unless it was quoted.
    Word(String),
    /// A parameter or a literal.
    Value,
    Operator(String),
    Mark(char),
}

/// The uses of `column` in a statement that mentions `table`; empty when it does not, or only reads and writes the column.
pub(super) fn uses(sql: &str, table: &str, column: &str) -> BTreeSet<Use> {
    let tokens = tokens(sql);
    if !tokens.iter().any(|t| is_word(t, table)) || defines(&tokens) {
        return BTreeSet::new();
    }
    let mut found = BTreeSet::new();
    let mut walk = Walk::default();
    for at in 0..tokens.len() {
        if is_word(&tokens[at], column) && !is_mark(tokens.get(at + 1), '.') {
            found.extend(walk.at_column(&tokens, at));
        }
        walk.step(&tokens, at);
    }
    found
}

/// Whether a statement changes definitions instead of using rows: CREATE without a query, ALTER, COMMENT and so on.
fn defines(tokens: &[Token]) -> bool {
    let first = tokens.iter().find_map(|t| if let Token::Word(w) = t { Some(w.as_str()) } else { None });
    match first {
        Some("create") => !tokens.iter().any(|t| is_word(t, "select")),
        Some(
            "alter" | "drop" | "comment" | "grant" | "revoke" | "analyze" | "vacuum" | "reindex" | "truncate" | "set",
        ) => true,
        _ => false,
    }
}

/// Which part of a statement, and inside which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Clause {
    #[default]
    Other,
    /// A list of target columns.
    Into,
    Distinct,
    Set,
    On,
    Using,
    Conflict,
    Order,
    Group,
}

#[derive(Clone, Debug, Default)]
struct Level {
    clause: Clause,
    call: Option<String>,
}

#[derive(Default)]
struct Walk {
    outer: Vec<Level>,
    here: Level,
}

impl Walk {
    fn step(&mut self, tokens: &[Token], at: usize) {
        match &tokens[at] {
            Token::Mark('(') => {
                let call = match at.checked_sub(1).map(|before| &tokens[before]) {
                    Some(Token::Word(w)) if !KEYWORDS.contains(&w.as_str()) && self.here.clause != Clause::Into => {
                        Some(w.clone())
                    }
                    _ => None,
                };
                let inner = Level { clause: self.here.clause, call };
                self.outer.push(std::mem::replace(&mut self.here, inner));
            }
            Token::Mark(')') => self.here = self.outer.pop().unwrap_or_default(),
            Token::Word(word) => {
                self.here.clause = match word.as_str() {
                    "into" => Clause::Into,
                    "distinct"
                        if !is_word_at(tokens, at.wrapping_sub(1), "is")
                            && !is_word_at(tokens, at.wrapping_sub(1), "not") =>
                    {
                        Clause::Distinct
                    }
                    "set" => Clause::Set,
                    "conflict" => Clause::Conflict,
                    "on" if !is_word_at(tokens, at + 1, "conflict") => {
                        if self.here.clause == Clause::Distinct {
                            Clause::Distinct
                        } else {
                            Clause::On
                        }
                    }
                    "using" => Clause::Using,
                    "order" => Clause::Order,
                    "group" => Clause::Group,
                    "select" | "from" | "where" | "having" | "values" | "returning" | "limit" | "offset" | "do"
                    | "union" => Clause::Other,
                    _ => return,
                };
            }
            _ => {}
        }
    }

    fn at_column(&self, tokens: &[Token], at: usize) -> Vec<Use> {
        // `u.email`: what stands before the qualifier counts.
        let mut first = at;
        while first >= 2 && tokens[first - 1] == Token::Mark('.') {
            first -= 2;
        }
        let before = first.checked_sub(1).map(|i| &tokens[i]);
        let assigned = self.here.clause == Clause::Set
            && matches!(before, Some(Token::Word(w)) if w == "set") | is_mark(before, ',')
            && matches!(tokens.get(at + 1), Some(Token::Operator(o)) if o == "=");
        if assigned || matches!(before, Some(Token::Word(w)) if w == "as") {
            return Vec::new();
        }
        let mut found = Vec::new();
        match self.here.clause {
            Clause::Into => return found,
            Clause::Conflict => return vec![Use::Equality],
            Clause::Using => return vec![Use::Join],
            Clause::Order => found.push(Use::Order),
            Clause::Group | Clause::Distinct => found.push(Use::Group),
            _ => {}
        }
        match self.here.call.as_deref() {
            None
            | Some("count" | "array_agg" | "json_agg" | "jsonb_build_object" | "json_build_object" | "coalesce") => {}
            Some("min" | "max" | "greatest" | "least") => found.push(Use::Order),
            Some(_) => found.push(Use::Expression),
        }
        found.extend(after(tokens, at + 1));
        found.extend(compared_by(before, first.checked_sub(2).and_then(|i| tokens.get(i))));
        found
    }
}

/// What follows a column: an operator, a word such as LIKE, a cast that is skipped.
fn after(tokens: &[Token], mut at: usize) -> Option<Use> {
    while matches!(tokens.get(at), Some(Token::Operator(o)) if o == "::") {
        at += 2;
    }
    if is_word_at(tokens, at, "not") {
        at += 1;
    }
    match tokens.get(at)? {
        Token::Operator(o) if matches!(o.as_str(), "=" | "<>" | "!=") => match tokens.get(at + 1) {
            Some(Token::Word(w)) if !KEYWORDS.contains(&w.as_str()) && !is_mark(tokens.get(at + 2), '(') => {
                Some(Use::Join)
            }
            _ => Some(Use::Equality),
        },
        Token::Operator(o) => operator(o),
        Token::Word(w) => match w.as_str() {
            "in" => Some(Use::Equality),
            "is" if is_word_at(tokens, at + 1, "distinct") || is_word_at(tokens, at + 2, "distinct") => {
                Some(Use::Equality)
            }
            "between" => Some(Use::Order),
            "like" | "ilike" | "similar" => Some(Use::Pattern),
            "collate" => Some(Use::Order),
            _ => None,
        },
        _ => None,
    }
}

/// What stands before a column: `$1 = email`, `lower($1) = email`, `prefix || email`.
fn compared_by(before: Option<&Token>, farther: Option<&Token>) -> Option<Use> {
    match before? {
        Token::Operator(o) if matches!(o.as_str(), "=" | "<>" | "!=") => match farther {
            Some(Token::Word(w)) if !KEYWORDS.contains(&w.as_str()) => Some(Use::Join),
            _ => Some(Use::Equality),
        },
        Token::Operator(o) => operator(o),
        Token::Word(w) if matches!(w.as_str(), "like" | "ilike") => Some(Use::Pattern),
        Token::Word(w) if w == "between" => Some(Use::Order),
        _ => None,
    }
}

fn operator(operator: &str) -> Option<Use> {
    match operator {
        "<" | ">" | "<=" | ">=" => Some(Use::Order),
        o if o.contains('~') || o.contains("@@") || o.contains('%') => Some(Use::Pattern),
        "::" => None,
        "*" => None,
        _ => Some(Use::Expression),
    }
}

/// Words before a parenthesis, or beside an operator, that are neither functions nor columns.
const KEYWORDS: &[&str] = &[
    "select",
    "from",
    "where",
    "and",
    "or",
    "not",
    "in",
    "on",
    "as",
    "any",
    "all",
    "some",
    "exists",
    "values",
    "using",
    "conflict",
    "distinct",
    "by",
    "when",
    "then",
    "else",
    "case",
    "end",
    "join",
    "union",
    "except",
    "intersect",
    "null",
    "true",
    "false",
    "default",
    "set",
    "having",
    "filter",
    "over",
    "returning",
    "limit",
    "array",
    "row",
    "lateral",
    "with",
    "is",
    "like",
    "ilike",
    "between",
    "into",
    "group",
    "order",
    "update",
    "insert",
    "delete",
];

fn is_word(token: &Token, word: &str) -> bool {
    // Unquoted names are folded to lower case; a quoted one is told apart only by its case.
    matches!(token, Token::Word(w) if w == word)
}

fn is_word_at(tokens: &[Token], at: usize, word: &str) -> bool {
    tokens.get(at).is_some_and(|t| is_word(t, word))
}

fn is_mark(token: Option<&Token>, mark: char) -> bool {
    token == Some(&Token::Mark(mark))
}

/// Splits a statement. An unfinished literal swallows the rest: nothing of a value can become a word.
fn tokens(sql: &str) -> Vec<Token> {
    let chars: Vec<char> = sql.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        at = match c {
            '-' if next == '-' => position(&chars, at, |c| c == '\n'),
            '/' if next == '*' => comment(&chars, at),
            '\'' => {
                // E'…' takes backslashes as escapes; taking them so everywhere can only swallow more.
                let escapes = matches!(tokens.last(), Some(Token::Word(w)) if w == "e");
                tokens.push(Token::Value);
                string(&chars, at, escapes)
            }
            '"' => {
                let end = quoted(&chars, at);
                let name: String = chars[at + 1..end.saturating_sub(1).max(at + 1)].iter().collect();
                tokens.push(Token::Word(name.replace("\"\"", "\"")));
                end
            }
            '$' => dollar(&chars, at, &mut tokens),
            c if c.is_ascii_digit() => {
                tokens.push(Token::Value);
                position(&chars, at, |c| !c.is_alphanumeric() && c != '.')
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = position(&chars, at, |c| !c.is_alphanumeric() && c != '_' && c != '$');
                tokens.push(Token::Word(chars[at..end].iter().collect::<String>().to_lowercase()));
                end
            }
            '(' | ')' | ',' | '.' | ';' | '[' | ']' => {
                tokens.push(Token::Mark(c));
                at + 1
            }
            c if c.is_whitespace() => at + 1,
            _ => {
                let end = position(&chars, at, |c| !OPERATOR.contains(c)).max(at + 1);
                tokens.push(Token::Operator(chars[at..end].iter().collect()));
                end
            }
        };
    }
    tokens
}

const OPERATOR: &str = "+-*/<>=~!@#%^&|`?:";

fn position(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|c| stop(*c)).map_or(chars.len(), |n| from + n)
}

/// Comments nest.
fn comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0_u32);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (at, depth) = (at + 2, depth + 1),
            ('*', '/') => {
                (at, depth) = (at + 2, depth - 1);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn string(chars: &[char], from: usize, escapes: bool) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' if escapes => at += 2,
            '\'' if chars.get(at + 1) == Some(&'\'') => at += 2,
            '\'' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn quoted(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '"' if chars.get(at + 1) == Some(&'"') => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `$1`, or a literal between `$tag$` and `$tag$`.
fn dollar(chars: &[char], from: usize, tokens: &mut Vec<Token>) -> usize {
    tokens.push(Token::Value);
    let tag_end = position(chars, from + 1, |c| !c.is_alphanumeric() && c != '_');
    if chars.get(tag_end) != Some(&'$') || chars.get(from + 1).is_some_and(char::is_ascii_digit) {
        return tag_end.max(from + 1);
    }
    let tag = &chars[from..=tag_end];
    let body = tag_end + 1;
    chars[body..].windows(tag.len()).position(|w| w == tag).map_or(chars.len(), |n| body + n + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Vec<Use> {
        uses(sql, "users", "email").into_iter().collect()
    }

    #[test]
    fn reading_and_writing_a_column_is_no_use_that_breaks() {
        assert_eq!(of("SELECT id, email FROM users WHERE id = $1"), []);
        assert_eq!(of("INSERT INTO users (id, email) VALUES ($1, $2) RETURNING email"), []);
        assert_eq!(of("UPDATE users SET name = $1, email = $2 WHERE id = $3"), []);
        assert_eq!(of("SELECT u.email AS email FROM users u WHERE u.email IS NOT NULL"), []);
        assert_eq!(of("SELECT email FROM customers WHERE email = $1"), [], "another table");
        assert_eq!(of("CREATE TABLE users (id int, email text CHECK (email <> ''))"), [], "a definition");
        assert_eq!(of("ALTER TABLE users ADD CHECK (email LIKE '%@%')"), []);
        assert_eq!(of("CREATE TABLE x AS SELECT * FROM users WHERE email = 'y'"), [Use::Equality]);
        assert_eq!(of("SELECT 'x' FROM users WHERE name = 'email = 3' -- email = 4\n AND id = /* email like */ 5"), []);
    }

    #[test]
    fn each_way_of_comparing_is_told_apart() {
        assert_eq!(of("SELECT * FROM users WHERE email = $1"), [Use::Equality]);
        assert_eq!(of("SELECT * FROM users u WHERE u.\"email\" IN ($1, $2)"), [Use::Equality]);
        assert_eq!(of("SELECT * FROM \"public\".\"users\" WHERE $1 = \"users\".\"email\""), [Use::Equality]);
        assert_eq!(of("select * from users where email = ANY ($1)"), [Use::Equality]);
        assert_eq!(of("SELECT * FROM users WHERE email::text <> $1"), [Use::Equality]);
        assert_eq!(of("INSERT INTO users (email) VALUES ($1) ON CONFLICT (email) DO NOTHING"), [Use::Equality]);
        assert_eq!(of("SELECT * FROM users WHERE email NOT ILIKE $1"), [Use::Pattern]);
        assert_eq!(of("SELECT * FROM users WHERE email ~* $1"), [Use::Pattern]);
        assert_eq!(of("SELECT id FROM users ORDER BY name, email DESC"), [Use::Order]);
        assert_eq!(of("SELECT id FROM users WHERE email BETWEEN $1 AND $2"), [Use::Order]);
        assert_eq!(of("SELECT max(email) FROM users"), [Use::Order]);
        assert_eq!(of("SELECT email, count(*) FROM users GROUP BY email"), [Use::Group]);
        assert_eq!(of("SELECT count(DISTINCT email) FROM users"), [Use::Group]);
        assert_eq!(of("SELECT * FROM users WHERE lower(email) = $1"), [Use::Expression]);
        assert_eq!(of("SELECT email || $1 FROM users"), [Use::Expression]);
        assert_eq!(of("SELECT email->>'a' FROM users"), [Use::Expression]);
        assert_eq!(of("SELECT * FROM users u JOIN leads l ON l.email = u.email"), [Use::Join]);
        assert_eq!(of("SELECT * FROM users JOIN leads USING (email)"), [Use::Join]);
        assert_eq!(of("UPDATE users SET name = $1 WHERE email = $2"), [Use::Equality]);
    }

    #[test]
    fn an_unfinished_literal_swallows_the_rest() {
        assert_eq!(of("SELECT * FROM users WHERE name = 'open email = 1"), []);
        assert_eq!(of("SELECT * FROM users WHERE name = E'it\\'s' AND email = 1"), [Use::Equality]);
        assert_eq!(of("SELECT * FROM users WHERE name = $q$ email like $q$ AND id = 1"), []);
    }
}
