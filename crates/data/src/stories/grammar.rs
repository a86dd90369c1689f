//! The notation of `stories.grammar` and the one walker that both writes and reads stories.
//!
//! A grammar is a list of rules, a rule a list of weighted alternatives. What a rule said can be remembered under a
//! name and said again later, which is what makes a story hang together (and the grammar more than context-free).
//!
//! ```text
//! [rule: he=she child=girl]    a rule; after the colon, attributes that go with whatever it says
//! 3* text | text               alternatives, one a line or parted by |; the weight in front is 1 if absent
//! <rule>                       say one alternative of the rule …
//! <x:rule>                     … and remember the words as x (without the article in front of them)
//! <rule but x y>               … but none of the words that x and y stand for; the others keep their proportions
//! <rule below n>               … only a number word smaller than n
//! {x} {X}                      the words of x, the second with a capital
//! {x.he}                       an attribute of x; {he} {him} {his} {himself} {child} are short for {hero.he} and so on
//! {n+m} {n-m} {half n}         the number word of a sum, a difference, a half; a number word may stand for n or m
//! {a} {A}                      "a" or "an", as the text that follows wants
//! ~   -   \n                   a space at the edge of an alternative; an empty alternative; a line break
//! ```
//!
//! [`Walker`] runs over the grammar with a [`Tape`]: a tape that writes gives the generator, a tape that compares with
//! a given text gives the recogniser. So there is no second description of the language that could drift.

use std::collections::HashMap;

/// Number words by value. The largest sum in the grammar stays below their count.
const NUMBERS: [&str; 61] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "twenty-one",
    "twenty-two",
    "twenty-three",
    "twenty-four",
    "twenty-five",
    "twenty-six",
    "twenty-seven",
    "twenty-eight",
    "twenty-nine",
    "thirty",
    "thirty-one",
    "thirty-two",
    "thirty-three",
    "thirty-four",
    "thirty-five",
    "thirty-six",
    "thirty-seven",
    "thirty-eight",
    "thirty-nine",
    "forty",
    "forty-one",
    "forty-two",
    "forty-three",
    "forty-four",
    "forty-five",
    "forty-six",
    "forty-seven",
    "forty-eight",
    "forty-nine",
    "fifty",
    "fifty-one",
    "fifty-two",
    "fifty-three",
    "fifty-four",
    "fifty-five",
    "fifty-six",
    "fifty-seven",
    "fifty-eight",
    "fifty-nine",
    "sixty",
];

fn number(word: &str) -> Option<usize> {
    NUMBERS.iter().position(|n| *n == word)
}

/// The hero's attributes that may be written without a name.
const HERO_ATTRIBUTES: [&str; 5] = ["he", "him", "his", "himself", "child"];

/// A parsed grammar. Rules and variables are numbered in order of appearance.
pub(crate) struct Grammar {
    rules: Vec<Rule>,
    variables: Vec<String>,
    start: Call,
}

struct Rule {
    name: String,
    attributes: Vec<(String, String)>,
    alternatives: Vec<Alternative>,
}

struct Alternative {
    weight: u64,
    nodes: Vec<Node>,
}

impl Alternative {
    /// The words, when the alternative is nothing but words.
    fn words(&self) -> Option<&str> {
        match self.nodes.as_slice() {
            [Node::Text(text)] => Some(text),
            _ => None,
        }
    }
}

enum Node {
    Text(String),
    Article { capital: bool },
    Call(Call),
    Say { variable: usize, attribute: Option<String>, capital: bool },
    Number { left: Operand, right: Operand, operator: Operator },
}

#[derive(Clone, Copy)]
enum Operator {
    Add,
    Subtract,
    Halve,
}

enum Operand {
    Variable(usize),
    Literal(usize),
}

/// A place where one alternative of a rule is to be chosen.
pub(crate) struct Call {
    rule: usize,
    remember: Option<usize>,
    but: Vec<usize>,
    below: Option<usize>,
}

impl Grammar {
    /// Parses the notation; the first rule is the start. The error says which line and why.
    pub(crate) fn parse(source: &str) -> Result<Grammar, String> {
        let mut names: HashMap<&str, usize> = HashMap::new();
        for line in source.lines().filter(|l| l.starts_with('[')) {
            let inside = line.trim().trim_start_matches('[').trim_end_matches(']');
            let name = inside.split(':').next().unwrap_or_default().trim();
            let index = names.len();
            if names.insert(name, index).is_some() {
                return Err(format!("rule {name} is declared twice"));
            }
        }
        let mut grammar = Grammar {
            rules: Vec::new(),
            variables: Vec::new(),
            start: Call { rule: 0, remember: None, but: Vec::new(), below: None },
        };
        for (i, line) in source.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            grammar.line(line, &names).map_err(|why| format!("line {}: {why}", i + 1))?;
        }
        match grammar.rules.iter().find(|r| r.alternatives.is_empty()) {
            Some(empty) => Err(format!("rule {} has no alternative", empty.name)),
            None => Ok(grammar),
        }
    }

    fn line(&mut self, line: &str, names: &HashMap<&str, usize>) -> Result<(), String> {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.strip_suffix(']').ok_or("a rule's name ends with ]")?;
            let (name, attributes) = header.split_once(':').unwrap_or((header, ""));
            let attributes = attributes
                .split_whitespace()
                .map(|a| a.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())))
                .collect::<Option<Vec<_>>>()
                .ok_or("an attribute is written name=value")?;
            self.rules.push(Rule { name: name.trim().to_string(), attributes, alternatives: Vec::new() });
            return Ok(());
        }
        for text in line.split('|') {
            let text = text.trim();
            let (weight, text) = match text.split_once("* ") {
                Some((w, rest)) if w.bytes().all(|b| b.is_ascii_digit()) => {
                    (w.parse().map_err(|_| format!("weight {w} is not a number"))?, rest)
                }
                _ => (1, text),
            };
            let nodes = if text == "-" { Vec::new() } else { self.nodes(text, names)? };
            let rule = self.rules.last_mut().ok_or("an alternative needs a [rule] above it")?;
            rule.alternatives.push(Alternative { weight, nodes });
        }
        Ok(())
    }

    fn nodes(&mut self, text: &str, names: &HashMap<&str, usize>) -> Result<Vec<Node>, String> {
        let text = text.replace("\\n", "\n").replace('~', " ");
        let mut nodes = Vec::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(['<', '{']) {
            if at > 0 {
                nodes.push(Node::Text(rest[..at].to_string()));
            }
            let close = if rest.as_bytes()[at] == b'<' { '>' } else { '}' };
            let end = rest[at..].find(close).ok_or_else(|| format!("{close} is missing"))? + at;
            let inside = &rest[at + 1..end];
            rest = &rest[end + 1..];
            if close == '>' {
                nodes.push(Node::Call(self.call(inside, names)?));
            } else if inside.eq_ignore_ascii_case("a") {
                // The article brings its own space, because only the next word decides between "a" and "an".
                rest = rest.strip_prefix(' ').ok_or("a space must follow {a}")?;
                nodes.push(Node::Article { capital: inside == "A" });
            } else {
                nodes.push(self.say(inside));
            }
        }
        if !rest.is_empty() {
            nodes.push(Node::Text(rest.to_string()));
        }
        Ok(nodes)
    }

    fn call(&mut self, inside: &str, names: &HashMap<&str, usize>) -> Result<Call, String> {
        let mut words = inside.split_whitespace();
        let head = words.next().ok_or("<> names no rule")?;
        let (remember, rule) = match head.split_once(':') {
            Some((variable, rule)) => (Some(self.variable(variable)), rule),
            None => (None, head),
        };
        let rule = *names.get(rule).ok_or_else(|| format!("there is no rule {rule}"))?;
        let mut call = Call { rule, remember, but: Vec::new(), below: None };
        let mut below = false;
        for word in words {
            match word {
                "but" => below = false,
                "below" => below = true,
                name if below => call.below = Some(self.variable(name)),
                name => {
                    let variable = self.variable(name);
                    call.but.push(variable);
                }
            }
        }
        Ok(call)
    }

    fn say(&mut self, inside: &str) -> Node {
        if let Some(half) = inside.strip_prefix("half ") {
            let left = self.operand(half);
            return Node::Number { left, right: Operand::Literal(2), operator: Operator::Halve };
        }
        for (sign, operator) in [('+', Operator::Add), ('-', Operator::Subtract)] {
            if let Some((left, right)) = inside.split_once(sign) {
                return Node::Number { left: self.operand(left), right: self.operand(right), operator };
            }
        }
        let name = inside.to_lowercase();
        let capital = name != inside && inside.starts_with(char::is_uppercase);
        let (variable, attribute) = match name.split_once('.') {
            Some((variable, attribute)) => (variable, Some(attribute.to_string())),
            None if HERO_ATTRIBUTES.contains(&name.as_str()) => ("hero", Some(name.clone())),
            None => (name.as_str(), None),
        };
        Node::Say { variable: self.variable(variable), attribute, capital }
    }

    fn operand(&mut self, word: &str) -> Operand {
        number(word).map_or_else(|| Operand::Variable(self.variable(word)), Operand::Literal)
    }

    fn variable(&mut self, name: &str) -> usize {
        self.variables.iter().position(|v| v == name).unwrap_or_else(|| {
            self.variables.push(name.to_string());
            self.variables.len() - 1
        })
    }

    /// The place where every story begins.
    pub(crate) fn start(&self) -> &Call {
        &self.start
    }
}

/// What a walker says its words to.
pub(crate) trait Tape: Clone {
    /// Takes `words`; false when they are not what comes next.
    fn put(&mut self, words: &str) -> bool;
    /// The text so far.
    fn said(&self) -> &str;
    /// False when `words` can certainly not come next; spares the walker a copy of itself.
    fn could_be(&self, words: &str) -> bool;
}

/// Writes.
#[derive(Clone, Default)]
pub(crate) struct Writer(pub(crate) String);

impl Tape for Writer {
    fn put(&mut self, words: &str) -> bool {
        self.0.push_str(words);
        true
    }
    fn said(&self) -> &str {
        &self.0
    }
    fn could_be(&self, _: &str) -> bool {
        true
    }
}

/// Follows a given text.
#[derive(Clone)]
pub(crate) struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Reader { text, at: 0 }
    }

    /// True when nothing of the text is left.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }
}

impl Tape for Reader<'_> {
    fn put(&mut self, words: &str) -> bool {
        let fits = self.could_be(words);
        if fits {
            self.at += words.len();
        }
        fits
    }
    fn said(&self) -> &str {
        &self.text[..self.at]
    }
    fn could_be(&self, words: &str) -> bool {
        self.text.as_bytes()[self.at..].starts_with(words.as_bytes())
    }
}

/// What a variable stands for: a span of the text so far, and the rule whose attributes go with it.
#[derive(Clone, Copy)]
struct Value {
    start: usize,
    end: usize,
    rule: Option<usize>,
}

#[derive(Clone, Copy)]
enum Todo<'g> {
    Nodes(&'g [Node]),
    Remember { variable: usize, start: usize, article: bool },
    Attributes { rule: usize },
}

/// Why a walker stopped.
pub(crate) enum Stop<'g> {
    /// An alternative has to be chosen.
    Choice(&'g Call),
    /// The story is over.
    End,
    /// The tape did not take the words.
    Mismatch,
}

/// A position in the grammar: what is still to be said, and what the variables stand for.
#[derive(Clone)]
pub(crate) struct Walker<'g, T> {
    grammar: &'g Grammar,
    pub(crate) tape: T,
    todo: Vec<Todo<'g>>,
    values: Vec<Option<Value>>,
    /// An article that waits for its word; true for a capital.
    article: Option<bool>,
    /// The rule with attributes that spoke last, and where its words end.
    spoke: Option<(usize, usize)>,
}

impl<'g, T: Tape> Walker<'g, T> {
    pub(crate) fn new(grammar: &'g Grammar, tape: T) -> Self {
        let values = vec![None; grammar.variables.len()];
        Walker { grammar, tape, todo: Vec::new(), values, article: None, spoke: None }
    }

    /// The alternatives that may be chosen at `call`, with their weights, and the sum of those weights.
    pub(crate) fn open(&self, call: &Call, into: &mut Vec<(usize, u64)>) -> u64 {
        into.clear();
        let mut total = 0;
        for (i, alternative) in self.grammar.rules[call.rule].alternatives.iter().enumerate() {
            let words = || alternative.words().unwrap_or_default();
            let excluded = call.but.iter().any(|&v| self.value(v) == words());
            let too_large = call.below.is_some_and(|v| number(words()) >= number(self.value(v)));
            if !excluded && !too_large {
                total += alternative.weight;
                into.push((i, alternative.weight));
            }
        }
        total
    }

    /// False when the alternative's first words certainly do not fit the tape.
    pub(crate) fn could_take(&self, call: &Call, alternative: usize) -> bool {
        match self.grammar.rules[call.rule].alternatives[alternative].nodes.first() {
            Some(Node::Text(words)) if self.article.is_none() => self.tape.could_be(words),
            _ => true,
        }
    }

    /// Continues with this alternative.
    pub(crate) fn take(&mut self, call: &Call, alternative: usize) {
        let rule = &self.grammar.rules[call.rule];
        if let Some(variable) = call.remember {
            let start = self.tape.said().len();
            self.todo.push(Todo::Remember { variable, start, article: self.article.is_some() });
        }
        if !rule.attributes.is_empty() {
            self.todo.push(Todo::Attributes { rule: call.rule });
        }
        self.todo.push(Todo::Nodes(&rule.alternatives[alternative].nodes));
    }

    /// Goes on until something has to be chosen.
    pub(crate) fn run(&mut self) -> Stop<'g> {
        while let Some(todo) = self.todo.pop() {
            match todo {
                Todo::Remember { variable, mut start, article } => {
                    let said = self.tape.said();
                    if article {
                        // The article was put after the start; it is not part of what is remembered.
                        start += said[start..].find(' ').map_or(0, |space| space + 1);
                    }
                    let end = said.len();
                    let rule = self.spoke.filter(|(_, at)| *at == end).map(|(rule, _)| rule);
                    self.values[variable] = Some(Value { start, end, rule });
                }
                Todo::Attributes { rule } => self.spoke = Some((rule, self.tape.said().len())),
                Todo::Nodes([]) => {}
                Todo::Nodes([node, rest @ ..]) => {
                    self.todo.push(Todo::Nodes(rest));
                    let fits = match node {
                        Node::Call(call) => return Stop::Choice(call),
                        Node::Article { capital } => {
                            self.article = Some(*capital);
                            true
                        }
                        Node::Text(words) => self.put(words),
                        Node::Say { variable, attribute, capital } => {
                            let words = match attribute {
                                None => self.value(*variable).to_string(),
                                Some(name) => self.attribute(*variable, name).to_string(),
                            };
                            self.put(&if *capital { capitalised(&words) } else { words })
                        }
                        Node::Number { left, right, operator } => {
                            let (left, right) = (self.operand(left), self.operand(right));
                            self.put(match operator {
                                Operator::Add => NUMBERS[left + right],
                                Operator::Subtract => NUMBERS[left - right],
                                Operator::Halve => NUMBERS[left / right],
                            })
                        }
                    };
                    if !fits {
                        return Stop::Mismatch;
                    }
                }
            }
        }
        Stop::End
    }

    fn put(&mut self, words: &str) -> bool {
        match self.article.take() {
            None => self.tape.put(words),
            Some(capital) => {
                let vowel = words.starts_with(['a', 'e', 'i', 'o', 'u']);
                let article = match (capital, vowel) {
                    (false, false) => "a ",
                    (false, true) => "an ",
                    (true, false) => "A ",
                    (true, true) => "An ",
                };
                self.tape.put(article) && self.tape.put(words)
            }
        }
    }

    fn operand(&self, operand: &Operand) -> usize {
        match operand {
            Operand::Literal(value) => *value,
            Operand::Variable(v) => number(self.value(*v)).unwrap_or_else(|| {
                panic!(
                    "grammar invariant: {} is a number word, but it is {:?}",
                    self.name(*v),
                    self.value(*v)
                )
            }),
        }
    }

    fn value(&self, variable: usize) -> &str {
        let value = self.bound(variable);
        &self.tape.said()[value.start..value.end]
    }

    fn attribute(&self, variable: usize, name: &str) -> &'g str {
        self.bound(variable)
            .rule
            .and_then(|rule| self.grammar.rules[rule].attributes.iter().find(|(k, _)| k == name))
            .map(|(_, value)| value.as_str())
            .unwrap_or_else(|| panic!("grammar invariant: {} has an attribute {name}", self.name(variable)))
    }

    fn bound(&self, variable: usize) -> Value {
        self.values[variable].unwrap_or_else(|| {
            panic!(
                "grammar invariant: {} is said before it is used; so far: {}",
                self.name(variable),
                self.tape.said()
            )
        })
    }

    fn name(&self, variable: usize) -> &str {
        &self.grammar.variables[variable]
    }
}

fn capitalised(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
