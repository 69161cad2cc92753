//! Lines as OpenVPN's own parser splits them. Pure.

/// What C's `isspace` takes for one: other spaces are part of a word to OpenVPN.
pub(super) const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Whether a word can be the name of an option. Others are refused: OpenVPN looks for a block only
/// behind "--", takes a second byte order mark for one, and can be told to ignore what it does not
/// know, so that it and we would see blocks begin at different lines.
pub(super) fn is_name(word: &str) -> bool {
    let name = word.strip_prefix("--").unwrap_or(word);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty() && name.chars().all(plain)
}

/// The words of a line, as OpenVPN's parser splits them (`parse_line`): a quotation is a word of its
/// own, and quotes within a word are part of it. `None` where it would see none, or complain.
pub(super) fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => match chars.next()? {
                // Before a word it drops the backslash and sees a space, or a comment.
                c if word.is_none() && (is_space(c) || matches!(c, '#' | ';')) => return None,
                next if matches!(next, '\\' | '"') || is_space(next) => {
                    word.get_or_insert_default().push(next);
                }
                _ => return None,
            },
            (Some(q), c) if c == q => {
                quote = None;
                words.extend(word.take());
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') if word.is_none() => {
                quote = Some(c);
                word = Some(String::new());
            }
            (None, '#' | ';') if word.is_none() => break,
            (None, c) if is_space(c) => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_openvpn_does() {
        let split = |line| words(line).expect("well-formed").join("|");
        assert_eq!(split("a 'b c' \"d\\\"e\" f#g # h"), "a|b c|d\"e|f#g");
        assert_eq!(split("; all of it"), "");
        assert_eq!(split("a ''"), "a|");
        assert_eq!(split("\"log\"/etc/x b\"c 'd'e"), "log|/etc/x|b\"c|d|e");
        for odd in ["a \"b", "a 'b", "\\ up", "u\\p", "a \\# b", "a \\"] {
            assert_eq!(words(odd), None, "{odd}");
        }
    }
}
