//! A configuration as git reads it (config.c), put plainly.

/// A key, section and name in lower case, and its value; none if there is only the name.
pub type Setting = (Vec<u8>, Option<Vec<u8>>);

/// The settings of a file; `None` if git would not read it.
pub fn read(text: &[u8]) -> Option<Vec<Setting>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut file = Letters(text);
    let (mut settings, mut section) = (Vec::new(), Vec::new());
    loop {
        match file.next() {
            None => return Some(settings),
            Some(b'#' | b';') => file.skip_line(),
            Some(b'[') => section = file.section()?,
            Some(letter) if is_space(letter) => {}
            Some(letter) if letter.is_ascii_alphabetic() => {
                let name = file.name(letter);
                let key = [&section[..], b".", &name].concat();
                settings.push((key, file.after_name()?));
            }
            Some(_) => return None,
        }
    }
}

/// C's, in the locale of that name, without the vertical ones that git leaves out.
fn is_space(letter: u8) -> bool {
    matches!(letter, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_key(letter: u8) -> bool {
    letter.is_ascii_alphanumeric() || letter == b'-'
}

/// What is not read yet.
struct Letters<'t>(&'t [u8]);

impl Letters<'_> {
    fn peek(&self) -> Option<u8> {
        match self.0 {
            [b'\r', b'\n', ..] => Some(b'\n'),
            [letter, ..] => Some(*letter),
            [] => None,
        }
    }

    fn next(&mut self) -> Option<u8> {
        let letter = self.peek()?;
        self.0 = &self.0[1 + usize::from(self.0.starts_with(b"\r\n"))..];
        Some(letter)
    }

    fn skip_line(&mut self) {
        while !matches!(self.next(), None | Some(b'\n')) {}
    }

    /// What stands between brackets.
    fn section(&mut self) -> Option<Vec<u8>> {
        let mut section = Vec::new();
        loop {
            match self.next()? {
                b']' => return Some(section),
                letter if is_space(letter) => break self.subsection(letter, section),
                letter if is_key(letter) || letter == b'.' => {
                    section.push(letter.to_ascii_lowercase());
                }
                _ => return None,
            }
        }
    }

    fn subsection(&mut self, mut letter: u8, mut section: Vec<u8>) -> Option<Vec<u8>> {
        while is_space(letter) {
            if letter == b'\n' {
                return None;
            }
            letter = self.next()?;
        }
        if letter != b'"' {
            return None;
        }
        section.push(b'.');
        loop {
            match self.next()? {
                b'\n' => return None,
                b'"' => break,
                b'\\' => section.push(self.next().filter(|letter| *letter != b'\n')?),
                letter => section.push(letter),
            }
        }
        (self.next()? == b']').then_some(section)
    }

    fn name(&mut self, first: u8) -> Vec<u8> {
        let mut name = vec![first.to_ascii_lowercase()];
        while let Some(letter) = self.peek().filter(|letter| is_key(*letter)) {
            name.push(letter.to_ascii_lowercase());
            self.next();
        }
        name
    }

    /// The value, if there is one.
    fn after_name(&mut self) -> Option<Option<Vec<u8>>> {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.next();
        }
        match self.next() {
            None | Some(b'\n') => Some(None),
            Some(b'=') => self.value().map(Some),
            Some(_) => None,
        }
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let (mut value, mut kept, mut is_quoted) = (Vec::new(), 0, false);
        loop {
            match self.next() {
                None | Some(b'\n') if is_quoted => return None,
                None | Some(b'\n') => break,
                Some(letter) if is_space(letter) && !is_quoted => {
                    if !value.is_empty() {
                        value.push(letter);
                    }
                    continue;
                }
                Some(b'#' | b';') if !is_quoted => {
                    self.skip_line();
                    break;
                }
                Some(b'\\') => match self.next()? {
                    b'\n' => continue,
                    b't' => value.push(b'\t'),
                    b'b' => value.push(8),
                    b'n' => value.push(b'\n'),
                    letter @ (b'\\' | b'"') => value.push(letter),
                    _ => return None,
                },
                Some(b'"') => is_quoted = !is_quoted,
                Some(letter) => value.push(letter),
            }
            // Spaces behind it do not count.
            kept = value.len();
        }
        value.truncate(kept);
        Some(value)
    }
}
