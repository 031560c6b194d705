//! Just enough of SQL's surface to ask which names a stored statement mentions. SQLite keeps schema statements as the
//! text somebody typed; comments and string literals in it must not count.

use super::names::same;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare word: a keyword or a name.
    Word(String),
    /// A name in quotes of any kind (single quotes too: SQLite takes `'email'` for a name where one is wanted).
    Quoted(String),
    Symbol(char),
}

impl Token {
    fn is_name(&self, name: &str) -> bool {
        matches!(self, Token::Word(word) | Token::Quoted(word) if same(word, name))
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self, Token::Word(found) if same(found, word))
    }

    fn name(&self) -> Option<&str> {
        match self {
            Token::Word(name) | Token::Quoted(name) => Some(name),
            Token::Symbol(_) => None,
        }
    }
}

/// Whether a statement mentions `name`. Errs on the side of yes.
pub(super) fn mentions(sql: &str, name: &str) -> bool {
    tokens(sql).iter().any(|token| token.is_name(name))
}

/// The parenthesised expressions that follow the word `after` in a CREATE TABLE: `CHECK (…)`, generated `AS (…)`.
pub(super) fn expressions(sql: &str, after: &str) -> Vec<Vec<Token>> {
    let tokens = tokens(sql);
    let mut found = Vec::new();
    for i in 0..tokens.len() {
        if tokens[i].is_word(after) && tokens.get(i + 1) == Some(&Token::Symbol('(')) {
            let mut depth = 0;
            let group = tokens[i + 1..].iter().take_while(|token| {
                depth += i32::from(**token == Token::Symbol('(')) - i32::from(**token == Token::Symbol(')'));
                depth > 0
            });
            found.push(group.skip(1).cloned().collect());
        }
    }
    found
}

/// Whether an expression mentions `name`.
pub(super) fn expression_mentions(expression: &[Token], name: &str) -> bool {
    expression.iter().any(|token| token.is_name(name))
}

/// For a CREATE TRIGGER: the columns of `UPDATE OF`, empty for every column; `None` when it does not fire on UPDATE.
pub(super) fn update_trigger_columns(sql: &str) -> Option<Vec<String>> {
    let tokens = tokens(sql);
    let trigger = tokens.iter().position(|t| t.is_word("TRIGGER"))?;
    let event =
        trigger + tokens[trigger..].iter().position(|t| ["DELETE", "INSERT", "UPDATE"].iter().any(|e| t.is_word(e)))?;
    if !tokens[event].is_word("UPDATE") {
        return None;
    }
    let rest = &tokens[event + 1..];
    if !rest.first()?.is_word("OF") {
        return Some(Vec::new());
    }
    let columns = rest[1..].iter().take_while(|t| !t.is_word("ON"));
    Some(columns.filter_map(|t| t.name().map(str::to_owned)).collect())
}

fn tokens(sql: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let used = match c {
            '-' if rest.starts_with("--") => rest.find('\n').map_or(rest.len(), |i| i + 1),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |i| i + 2),
            '\'' | '"' | '`' => quoted(rest, c, &mut out),
            '[' => {
                let end = rest.find(']').unwrap_or(rest.len());
                out.push(Token::Quoted(rest[1..end.max(1)].to_owned()));
                (end + 1).min(rest.len())
            }
            c if word_char(c) => {
                let end = rest.find(|c| !word_char(c)).unwrap_or(rest.len());
                out.push(Token::Word(rest[..end].to_owned()));
                end
            }
            c => {
                if !c.is_whitespace() {
                    out.push(Token::Symbol(c));
                }
                c.len_utf8()
            }
        };
        rest = &rest[used..];
    }
    out
}

fn word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Reads a quoted piece, where a doubled quote is one; returns how many bytes it took.
fn quoted(rest: &str, quote: char, out: &mut Vec<Token>) -> usize {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if c != quote {
            text.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
            text.push(quote);
            chars.next();
        } else {
            out.push(Token::Quoted(text));
            return i + 1;
        }
    }
    out.push(Token::Quoted(text));
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_spelling_and_not_in_comments_or_other_words() {
        for sql in ["SELECT email FROM t", "SELECT \"Email\"", "SELECT [email]", "SELECT `email`", "x.email+1"] {
            assert!(mentions(sql, "email"), "{sql}");
        }
        for sql in ["SELECT emails", "-- email\nSELECT 1", "/* email */ 1", "SELECT 'an email'", "SELECT e_mail"] {
            assert!(!mentions(sql, "email"), "{sql}");
        }
    }

    #[test]
    fn the_event_of_a_trigger_and_its_columns_are_read() {
        let columns = |sql| update_trigger_columns(sql);
        assert_eq!(columns("CREATE TRIGGER g AFTER UPDATE ON t BEGIN SELECT 1; END"), Some(vec![]));
        assert_eq!(
            columns("CREATE TRIGGER IF NOT EXISTS \"delete\" BEFORE UPDATE OF a, \"b\" ON t BEGIN SELECT 1; END"),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(columns("CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET a = 1; END"), None);
    }

    #[test]
    fn checks_and_generated_columns_give_their_expressions() {
        let sql = "CREATE TABLE t(a TEXT CHECK (length(a) > (1)), b AS (lower(a)) STORED, c AS(1), CHECK(b <> ')'))";
        let checks = expressions(sql, "CHECK");
        assert_eq!(checks.len(), 2);
        assert!(expression_mentions(&checks[0], "a") && !expression_mentions(&checks[1], "a"));
        assert_eq!(expressions(sql, "AS").iter().filter(|e| expression_mentions(e, "a")).count(), 1);
    }
}
