//! Reads one filter.

use super::{Field, Selector, Selectors, Test, expression};

/// The selectors of `filter`; the error says what is wrong, and at which byte.
pub(super) fn selectors(filter: &str) -> Result<Selectors, String> {
    if filter.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(at) = filter.find(['\0', char::REPLACEMENT_CHARACTER]) {
        return Err(format!("at byte {at}: this character is not allowed"));
    }
    let mut parser = Parser { filter, at: 0 };
    let mut selectors = vec![parser.selector()?];
    while parser.peek().is_some() {
        if !parser.skip(',') {
            return Err(parser.expected("',' or the end"));
        }
        selectors.push(parser.selector()?);
    }
    Ok(selectors)
}

struct Parser<'a> {
    filter: &'a str,
    /// The byte that is read next, on the boundary of a character.
    at: usize,
}

impl Parser<'_> {
    fn selector(&mut self) -> Result<Selector, String> {
        let field = Field::from_path(self.path()?);
        if matches!(self.peek(), None | Some(',')) {
            let test = Test::Present;
            return Ok(Selector { field, test });
        }
        let test = match self.operator()? {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            _ => {
                let text = String::from_utf8(self.value(true)?)
                    .map_err(|_| self.error("the regular expression is not UTF-8"))?;
                Test::Matches(expression::compile(&text).map_err(|reason| self.error(&reason))?)
            }
        };
        Ok(Selector { field, test })
    }

    fn path(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let mut path = vec![self.field()?];
        while self.skip('.') {
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<Vec<u8>, String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let name = self.take_while(|char| char == '_' || char.is_ascii_alphanumeric());
        if name.is_empty() {
            return Err(self.expected("a field: a word or \"quoted text\""));
        }
        Ok(name.as_bytes().to_vec())
    }

    fn operator(&mut self) -> Result<&str, String> {
        self.skip_space();
        let start = self.at;
        self.take_while(is_operator);
        match &self.filter[start..self.at] {
            operator @ ("==" | "!=" | "~=") => Ok(operator),
            _ => {
                self.at = start;
                Err(self.expected("an operator: \"==\", \"!=\" or \"~=\""))
            }
        }
    }

    /// The value after an operator; that of `~=` may also be quoted with `/` and `|`.
    fn value(&mut self, of_expression: bool) -> Result<Vec<u8>, String> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if of_expression => self.quoted(quote),
            Some('/' | '|') => Err(self.expected("a value; quote it with '\"'")),
            None | Some(',' | '.') => Err(self.expected("a value")),
            Some(first) if is_operator(first) => Err(self.expected("a value; quote it with '\"'")),
            Some(first) => {
                let start = self.at;
                // The first character may be any; containerd looks only at those that follow.
                self.at += first.len_utf8();
                self.take_while(|char| char != ',' && !char.is_whitespace() && !char.is_control());
                Ok(self.filter.as_bytes()[start..self.at].to_vec())
            }
        }
    }

    /// Text between `quote`s, with the escapes of a Go string.
    fn quoted(&mut self, quote: char) -> Result<Vec<u8>, String> {
        let start = self.at;
        let mut text = Vec::new();
        self.skip(quote);
        while let Some(char) = self.next() {
            match char {
                '\n' => break,
                '\\' => self.escape(quote, &mut text)?,
                char if char == quote => return Ok(text),
                char => push(&mut text, char),
            }
        }
        self.at = start;
        Err(self.error("the quoted text does not end"))
    }

    /// The rest of an escape after its backslash, appended to `text`.
    fn escape(&mut self, quote: char, text: &mut Vec<u8>) -> Result<(), String> {
        let byte = match self.next() {
            Some('a') => 0x07,
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 0x0b,
            Some('\\') => b'\\',
            Some(char) if char == quote => quote as u8,
            Some('x') => self.byte(16, 2)?,
            Some('0'..='7') => {
                self.at -= 1;
                self.byte(8, 3)?
            }
            Some(kind @ ('u' | 'U')) => {
                let code = self.digits(16, if kind == 'u' { 4 } else { 8 })?;
                if code > char::MAX as u32 {
                    return Err(self.error("there is no such character"));
                }
                // Half of a surrogate pair, as in Go.
                push(
                    text,
                    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
                );
                return Ok(());
            }
            _ => return Err(self.error("no such escape; write a backslash as \\\\")),
        };
        text.push(byte);
        Ok(())
    }

    fn byte(&mut self, base: u32, count: usize) -> Result<u8, String> {
        let code = self.digits(base, count)?;
        u8::try_from(code).map_err(|_| self.error("the escape is more than a byte"))
    }

    /// Exactly `count` digits, at most eight hexadecimal ones.
    fn digits(&mut self, base: u32, count: usize) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..count {
            let digit = self.next().and_then(|char| char.to_digit(base));
            let digit = digit.ok_or_else(|| self.error("the escape needs more digits"))?;
            code = code * base + digit;
        }
        Ok(code)
    }

    fn peek(&self) -> Option<char> {
        self.filter[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += char.len_utf8();
        Some(char)
    }

    fn skip(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.at += wanted.len_utf8();
        }
        there
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &str {
        let rest = &self.filter[self.at..];
        let taken = &rest[..rest.find(|char| !belongs(char)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn expected(&self, what: &str) -> String {
        match self.peek() {
            Some(found) => self.error(&format!("expected {what}, found {found:?}")),
            None => self.error(&format!("expected {what}, but it ends")),
        }
    }

    fn error(&self, reason: &str) -> String {
        format!("at byte {}: {reason}", self.at)
    }
}

fn is_operator(char: char) -> bool {
    matches!(char, '=' | '!' | '~')
}

fn push(text: &mut Vec<u8>, char: char) {
    text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}
