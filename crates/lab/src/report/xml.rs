//! Writing HTML and SVG so that the result is well-formed XML whatever stands in a run: names, settings and
//! messages are escaped here and nowhere else.

use std::fmt::Display;

/// Attributes of an element.
pub(crate) type Attributes<'a> = &'a [(&'a str, &'a dyn Display)];

/// A text of markup that grows.
#[derive(Debug, Default)]
pub(crate) struct Xml {
    text: String,
    open: Vec<&'static str>,
}

impl Xml {
    /// Begins an element.
    pub(crate) fn open(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.tag(name, attributes, ">");
        self.open.push(name);
    }

    /// Ends the element that was begun last.
    pub(crate) fn close(&mut self) {
        let name = self.open.pop().expect("an element is closed once");
        self.text += &format!("</{name}>");
        if matches!(name, "tr" | "table" | "svg" | "figure" | "section" | "div" | "p" | "details") {
            self.text.push('\n');
        }
    }

    /// An element without contents.
    pub(crate) fn empty(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.tag(name, attributes, "/>");
    }

    /// An element of text.
    pub(crate) fn element(&mut self, name: &'static str, attributes: Attributes<'_>, text: impl Display) {
        self.open(name, attributes);
        self.text(text);
        self.close();
    }

    /// Text.
    pub(crate) fn text(&mut self, text: impl Display) {
        self.text += &escaped(&text.to_string());
    }

    /// Markup that is whole in itself.
    pub(crate) fn markup(&mut self, markup: &str) {
        self.text += markup;
    }

    /// All of it; every element is closed.
    pub(crate) fn finish(self) -> String {
        debug_assert!(self.open.is_empty(), "{:?} is open", self.open);
        self.text
    }

    fn tag(&mut self, name: &str, attributes: Attributes<'_>, end: &str) {
        self.text += &format!("<{name}");
        for (key, value) in attributes {
            self.text += &format!(" {key}=\"{}\"", escaped(&value.to_string()));
        }
        self.text += end;
    }
}

/// Text that stands for itself between tags and in attributes. Characters that XML does not have become
/// the one that stands for unknown ones.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: a parser of XML gives back what was written.
    #[test]
    fn any_text_comes_back_from_a_parser() {
        for text in ["a < b && \"c\" > 'd'", "</script><script>alert(1)</script>", "é 中 🙂", "]]>", "a\n\tb"]
        {
            let mut xml = Xml::default();
            xml.open("svg", &[("title", &text)]);
            xml.element("text", &[("x", &1.5)], text);
            xml.empty("path", &[]);
            xml.close();
            let markup = xml.finish();
            let parsed = roxmltree::Document::parse(&markup).unwrap_or_else(|e| panic!("{e}: {markup}"));
            assert_eq!(parsed.root_element().first_element_child().unwrap().text(), Some(text));
            let attribute = parsed.root_element().attribute("title").unwrap();
            // In attributes a parser takes line ends and tabs for spaces.
            assert_eq!(attribute, text.replace(['\n', '\t'], " "));
        }
        assert_eq!(escaped("a\0b\u{1b}[31m\r\u{ffff}"), "a\u{fffd}b\u{fffd}[31m\u{fffd}\u{fffd}");
    }
}
