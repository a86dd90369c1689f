//! Attributes: the arguments of an op that are known when the program is built.
//!
//! MIL writes them as arguments like any other and demands that they be constants. In [`Op`] they
//! are typed fields; this module is the bridge between the two forms.
//!
//! [`Op`]: crate::Op

use crate::DType;

/// An attribute in the form that text knows.
#[derive(Debug, Clone, PartialEq)]
pub enum AttrValue {
    /// `bool`
    Bool(bool),
    /// `int32`
    Int(i32),
    /// `fp16` or `fp32`, whichever the program is built for
    Float(f32),
    /// `string`
    Str(String),
    /// `tensor<int32, [n]>`
    Ints(Vec<i32>),
}

/// A field type of [`Op`](crate::Op) that can be written as an attribute.
pub(crate) trait Attr: Sized {
    fn to_value(&self) -> AttrValue;
    /// `None` when the value is of another kind.
    fn from_value(value: &AttrValue) -> Option<Self>;
}

macro_rules! plain_attr {
    ($ty:ty, $variant:ident) => {
        impl Attr for $ty {
            fn to_value(&self) -> AttrValue {
                AttrValue::$variant(self.clone())
            }
            fn from_value(value: &AttrValue) -> Option<Self> {
                match value {
                    AttrValue::$variant(v) => Some(v.clone()),
                    _ => None,
                }
            }
        }
    };
}

plain_attr!(bool, Bool);
plain_attr!(f32, Float);
plain_attr!(String, Str);

impl Attr for i32 {
    fn to_value(&self) -> AttrValue {
        AttrValue::Int(*self)
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Int(v) => Some(*v),
            // A one-element tensor where a scalar is meant: other writers do that.
            AttrValue::Ints(v) if v.len() == 1 => Some(v[0]),
            _ => None,
        }
    }
}

impl Attr for Vec<i32> {
    fn to_value(&self) -> AttrValue {
        AttrValue::Ints(self.clone())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Ints(v) => Some(v.clone()),
            AttrValue::Int(v) => Some(vec![*v]),
            _ => None,
        }
    }
}

impl Attr for DType {
    fn to_value(&self) -> AttrValue {
        AttrValue::Str(self.mil_name().to_owned())
    }
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Str(name) => DType::from_mil_name(name),
            _ => None,
        }
    }
}

/// An attribute that is one of a few words. Text knows the word, [`Op`](crate::Op) the variant.
macro_rules! word_attr {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl $crate::attr::Attr for $name {
            fn to_value(&self) -> $crate::AttrValue {
                $crate::AttrValue::Str(match self { $(Self::$variant => $word),+ }.to_owned())
            }
            fn from_value(value: &$crate::AttrValue) -> Option<Self> {
                match value {
                    $crate::AttrValue::Str(word) => match word.as_str() {
                        $($word => Some(Self::$variant),)+
                        _ => None,
                    },
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use word_attr;
