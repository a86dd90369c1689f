//! From text to a tree that mirrors it. What the words mean is not asked here.

use super::lex::{Source, Token, tokens};
use crate::Result;

/// Lists in text nest as deep as a shape has axes; the limit keeps hostile text off the stack.
const MAX_NESTING: usize = 32;
/// A tensor with more elements is a mistake or an attack; shape arithmetic stays far from overflow.
const MAX_ELEMENTS: usize = 1 << 40;

/// The function that a program consists of.
#[derive(Debug)]
pub(super) struct Function<'t> {
    pub(super) at: usize,
    pub(super) inputs: Vec<Declared<'t>>,
    pub(super) statements: Vec<Statement<'t>>,
    pub(super) outputs: Vec<(&'t str, usize)>,
}

/// `TYPE NAME`
#[derive(Debug)]
pub(super) struct Declared<'t> {
    pub(super) ty: Type<'t>,
    pub(super) name: &'t str,
    pub(super) at: usize,
}

/// `fp16` or `tensor<fp16, [1, 2]>`
#[derive(Debug, Clone)]
pub(super) struct Type<'t> {
    pub(super) element: &'t str,
    pub(super) shape: Vec<usize>,
    pub(super) at: usize,
}

impl Type<'_> {
    /// Bounded by [`MAX_ELEMENTS`].
    pub(super) fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// `TYPE NAME, … = OP(ARGUMENT, …)[ARGUMENT, …];`
#[derive(Debug)]
pub(super) struct Statement<'t> {
    pub(super) results: Vec<Declared<'t>>,
    pub(super) op: &'t str,
    pub(super) at: usize,
    /// Those in parentheses, then those in brackets but for `name`.
    pub(super) arguments: Vec<Argument<'t>>,
}

impl<'t> Statement<'t> {
    pub(super) fn argument(&self, name: &str) -> Option<&Argument<'t>> {
        self.arguments.iter().find(|argument| argument.name == name)
    }
}

/// `NAME = VALUE`
#[derive(Debug)]
pub(super) struct Argument<'t> {
    pub(super) name: &'t str,
    pub(super) value: Value<'t>,
    pub(super) at: usize,
}

#[derive(Debug)]
pub(super) enum Value<'t> {
    /// Something declared before.
    Name(&'t str, usize),
    /// `(a, b)`
    Tuple(Vec<Value<'t>>),
    Literal(Literal<'t>),
}

/// `TYPE(BODY)`, or a bare body.
#[derive(Debug)]
pub(super) struct Literal<'t> {
    pub(super) ty: Option<Type<'t>>,
    pub(super) body: Body<'t>,
    pub(super) at: usize,
}

#[derive(Debug)]
pub(super) enum Body<'t> {
    /// A scalar, or the elements of a list, row-major.
    Atoms { atoms: Vec<(Atom<'t>, usize)>, list: bool },
    /// `BLOBFILE(path = …, offset = …)`
    Blob { path: String, offset: u64 },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Atom<'t> {
    Number(&'t str),
    Text(String),
    Bool(bool),
}

/// The first function of the program in `source`.
pub(super) fn parse<'t>(source: &Source<'t>) -> Result<Function<'t>> {
    let mut parser = Parser { source: *source, tokens: tokens(source)?, next: 0 };
    parser.program()
}

struct Parser<'t> {
    source: Source<'t>,
    tokens: Vec<(Token<'t>, usize)>,
    next: usize,
}

impl<'t> Parser<'t> {
    // Tokens.

    fn peek(&self) -> &Token<'t> {
        &self.tokens[self.next].0
    }

    fn peek_second(&self) -> &Token<'t> {
        &self.tokens[(self.next + 1).min(self.tokens.len() - 1)].0
    }

    fn at(&self) -> usize {
        self.tokens[self.next].1
    }

    fn take(&mut self) -> Token<'t> {
        let token = self.tokens[self.next].0.clone();
        // The last token, the end, is never passed.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if *found == sign)
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.take();
        }
        found
    }

    fn fail<T>(&self, expected: &str) -> Result<T> {
        Err(self.source.error(self.at(), format!("found {}, expected {expected}", self.peek().describe())))
    }

    fn expect(&mut self, sign: &str, context: &str) -> Result<()> {
        if self.accept(sign) { Ok(()) } else { self.fail(&format!("`{sign}` {context}")) }
    }

    fn word(&mut self, expected: &str) -> Result<&'t str> {
        match *self.peek() {
            Token::Word(word) => {
                self.take();
                Ok(word)
            }
            _ => self.fail(expected),
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<()> {
        match self.peek() {
            Token::Word(word) if *word == keyword => {
                self.take();
                Ok(())
            }
            _ => self.fail(&format!("`{keyword}`")),
        }
    }

    /// `item, item, …` up to `close`, which is taken; a comma may stand before it.
    fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        loop {
            if self.accept(close) {
                return Ok(items);
            }
            items.push(item(self)?);
            if !self.accept(",") {
                self.expect(close, "or `,`")?;
                return Ok(items);
            }
        }
    }

    // The program.

    /// `program(1.3) [buildInfo = …] { func main<ios18>(…) { … } -> (…); }`
    fn program(&mut self) -> Result<Function<'t>> {
        self.keyword("program")?;
        self.expect("(", "and the version behind `program`")?;
        let Token::Number(_) = *self.peek() else {
            return self.fail("a version such as 1.3");
        };
        self.take();
        self.expect(")", "behind the version")?;
        self.skip_brackets()?;
        self.expect("{", "around the functions")?;
        let function = self.function()?;
        // Further functions of the same program stand behind it, unread.
        if !matches!(self.peek(), Token::Word("func")) {
            self.expect("}", "behind the function")?;
            if *self.peek() != Token::End {
                return self.fail("the end of the program");
            }
        }
        Ok(function)
    }

    /// `[…]`, read over whatever it holds.
    fn skip_brackets(&mut self) -> Result<()> {
        let open = self.at();
        if !self.accept("[") {
            return Ok(());
        }
        let mut depth = 1;
        while depth > 0 {
            match self.take() {
                Token::Sign("[") => depth += 1,
                Token::Sign("]") => depth -= 1,
                Token::End => return Err(self.source.error(open, "a `[` without its `]`")),
                _ => {}
            }
        }
        Ok(())
    }

    fn function(&mut self) -> Result<Function<'t>> {
        self.keyword("func")?;
        let at = self.at();
        self.word("the function's name")?;
        if self.accept("<") {
            self.word("an operating system such as ios18")?;
            self.expect(">", "behind the operating system")?;
        }
        self.expect("(", "and the inputs")?;
        let inputs = self.list(")", Self::declared)?;
        self.skip_brackets()?;
        self.expect("{", "and the statements")?;
        let mut statements = Vec::new();
        while !self.accept("}") {
            statements.push(self.statement()?);
        }
        self.expect("->", "and the outputs")?;
        self.expect("(", "around the outputs")?;
        let outputs = self.list(")", |p| {
            let at = p.at();
            Ok((p.word("the name of an output")?, at))
        })?;
        self.accept(";");
        Ok(Function { at, inputs, statements, outputs })
    }

    fn declared(&mut self) -> Result<Declared<'t>> {
        let ty = self.ty()?;
        let at = self.at();
        Ok(Declared { ty, name: self.word("a name")?, at })
    }

    fn statement(&mut self) -> Result<Statement<'t>> {
        let mut results = vec![self.declared()?];
        while self.accept(",") {
            results.push(self.declared()?);
        }
        self.expect("=", "and an op")?;
        let at = self.at();
        let op = self.word("an op")?;
        self.expect("(", "and the arguments")?;
        let mut arguments = self.list(")", Self::argument)?;
        if self.accept("[") {
            let attributes = self.list("]", Self::argument)?;
            arguments.extend(attributes.into_iter().filter(|attribute| attribute.name != "name"));
        }
        self.accept(";");
        let twice = (1..arguments.len())
            .find(|i| arguments[..*i].iter().any(|before| before.name == arguments[*i].name));
        if let Some(twice) = twice.map(|i| &arguments[i]) {
            return Err(self
                .source
                .error(twice.at, format!("{op}: argument `{}` is given twice", twice.name)));
        }
        Ok(Statement { results, op, at, arguments })
    }

    fn argument(&mut self) -> Result<Argument<'t>> {
        let at = self.at();
        let name = self.word("the name of an argument")?;
        self.expect("=", "and the argument's value")?;
        Ok(Argument { name, value: self.value()?, at })
    }

    // Types.

    fn ty(&mut self) -> Result<Type<'t>> {
        let at = self.at();
        let element = self.word("a type")?;
        if !matches!(element, "tensor" | "state" | "list" | "dict" | "tuple") {
            return Ok(Type { element, shape: Vec::new(), at });
        }
        if element != "tensor" {
            return Err(self
                .source
                .error(at, format!("values of type {element}<…> are not supported, only tensors")));
        }
        self.expect("<", "and the element type")?;
        let element = self.word("an element type")?;
        self.expect(",", "and the shape")?;
        self.expect("[", "around the shape")?;
        let shape = self.list("]", Self::extent)?;
        self.expect(">", "behind the shape")?;
        let numel = shape.iter().try_fold(1_usize, |product, extent| product.checked_mul(*extent));
        if numel.is_none_or(|numel| numel > MAX_ELEMENTS) {
            return Err(self
                .source
                .error(at, format!("{shape:?} holds more than 2^40 elements; no device has room for them")));
        }
        Ok(Type { element, shape, at })
    }

    fn extent(&mut self) -> Result<usize> {
        match *self.peek() {
            Token::Number(number) => {
                let Some(extent) = number.parse().ok().filter(|e| *e <= i32::MAX as usize) else {
                    return self.fail("the extent of an axis, an integer below 2^31");
                };
                self.take();
                Ok(extent)
            }
            Token::Word(_) | Token::Sign("?") => {
                self.fail("the extent of an axis; symbolic shapes do not compile (rule ANE-063)")
            }
            _ => self.fail("the extent of an axis"),
        }
    }

    // Values.

    fn value(&mut self) -> Result<Value<'t>> {
        if self.accept("(") {
            // One level: a tuple of tuples means nothing to any op.
            let values = self.list(")", Self::single_value)?;
            return Ok(Value::Tuple(values));
        }
        self.single_value()
    }

    fn single_value(&mut self) -> Result<Value<'t>> {
        let at = self.at();
        match self.peek() {
            Token::Word("true" | "false") => {}
            Token::Word(name) if !matches!(self.peek_second(), Token::Sign("(" | "<")) => {
                let name = *name;
                self.take();
                return Ok(Value::Name(name, at));
            }
            Token::Word(_) => {
                let ty = self.ty()?;
                self.expect("(", "and the value")?;
                let body = self.body()?;
                self.expect(")", "behind the value")?;
                return Ok(Value::Literal(Literal { ty: Some(ty), body, at }));
            }
            Token::Number(_) | Token::Text(_) | Token::Sign("[") => {}
            _ => return self.fail("a name or a value"),
        }
        let body = self.body()?;
        Ok(Value::Literal(Literal { ty: None, body, at }))
    }

    fn body(&mut self) -> Result<Body<'t>> {
        match self.peek() {
            Token::Word("BLOBFILE") => self.blob(),
            Token::Sign("[") => {
                let mut atoms = Vec::new();
                self.elements(&mut atoms, 0)?;
                Ok(Body::Atoms { atoms, list: true })
            }
            _ => {
                let at = self.at();
                Ok(Body::Atoms { atoms: vec![(self.atom()?, at)], list: false })
            }
        }
    }

    /// `[1, 2]` or `[[1, 2], [3, 4]]`, flattened.
    fn elements(&mut self, atoms: &mut Vec<(Atom<'t>, usize)>, depth: usize) -> Result<()> {
        if depth == MAX_NESTING {
            return self.fail(&format!("a list nested at most {MAX_NESTING} deep"));
        }
        self.expect("[", "around a list")?;
        self.list("]", |p| {
            if p.is("[") {
                return p.elements(atoms, depth + 1);
            }
            let at = p.at();
            atoms.push((p.atom()?, at));
            Ok(())
        })?;
        Ok(())
    }

    fn atom(&mut self) -> Result<Atom<'t>> {
        let atom = match self.peek() {
            Token::Number(number) => Atom::Number(number),
            Token::Word("true") => Atom::Bool(true),
            Token::Word("false") => Atom::Bool(false),
            Token::Word(number @ ("inf" | "infinity" | "nan")) => Atom::Number(number),
            Token::Text(text) => Atom::Text(text.clone()),
            _ => return self.fail("a number, a truth value or a string"),
        };
        self.take();
        Ok(atom)
    }

    /// `BLOBFILE(path = string("…"), offset = uint64(64))`
    fn blob(&mut self) -> Result<Body<'t>> {
        let at = self.at();
        self.keyword("BLOBFILE")?;
        self.expect("(", "and `path` and `offset`")?;
        let (mut path, mut offset) = (None, None);
        self.list(")", |p| {
            let at = p.at();
            let name = p.word("`path` or `offset`")?;
            p.expect("=", "and its value")?;
            let value = p.single_value()?;
            let atom = match value {
                Value::Literal(Literal { body: Body::Atoms { mut atoms, .. }, .. }) if atoms.len() == 1 => {
                    atoms.pop().map(|(atom, _)| atom)
                }
                _ => None,
            };
            match (name, atom) {
                ("path", Some(Atom::Text(text))) => path = Some(text),
                ("offset", Some(Atom::Number(number))) if number.parse::<u64>().is_ok() => {
                    offset = number.parse::<u64>().ok();
                }
                _ => {
                    return Err(p
                        .source
                        .error(at, "BLOBFILE takes `path`, a string, and `offset`, a number of bytes"));
                }
            }
            Ok(())
        })?;
        match (path, offset) {
            (Some(path), Some(offset)) => Ok(Body::Blob { path, offset }),
            _ => Err(self.source.error(at, "BLOBFILE needs both `path` and `offset`")),
        }
    }
}
