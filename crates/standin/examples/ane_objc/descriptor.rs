//! `_ANEInMemoryModelDescriptor`: text and weights, of which the identifier is made.

use objc2::runtime::{AnyClass, Sel};
use objc2::sel;
use sha2::{Digest, Sha256};
use standin::inmem::BadArgument;

use crate::foundation::{Id, bytes, elements, is_kind, text, value};
use crate::objects::{self, Object, alloc, autorelease, event, objects, violation};

/// Defines the class.
pub(crate) fn define() {
    objects::define(c"_ANEInMemoryModelDescriptor", |class| {
        // SAFETY: the function has the method's types.
        unsafe {
            class.add_class_method(
                sel!(modelWithMILText:weights:optionsPlist:),
                with_mil_text as unsafe extern "C-unwind" fn(_, _, _, _, _) -> _,
            );
        }
    });
}

/// `+modelWithMILText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(id)nil` → object or nil.
unsafe extern "C-unwind" fn with_mil_text(
    class: &'static AnyClass,
    _: Sel,
    mil: Id,
    weights: Id,
    _options: Id,
) -> Id {
    // SAFETY: arguments of messages are nil or objects.
    let read = unsafe { identify(mil, weights) };
    let (hex, files) = match read {
        Ok(read) => read,
        Err(problem) => {
            violation(&format!("modelWithMILText: {problem}"));
            if standin::state().profile.inmem.bad_argument == BadArgument::Crash {
                eprintln!("modelWithMILText: {problem}");
                std::process::abort();
            }
            return std::ptr::null_mut();
        }
    };
    // SAFETY: the class is ours, and the reference is given to the pool.
    let new = unsafe { autorelease(alloc(class)) };
    let name = objects().add(new, Object::Descriptor { hex, files });
    event(&format!("modelWithMILText -> {name}"));
    new
}

/// The identifier, a hash of the text and one of the weights, and the paths of the weight files.
///
/// # Safety
/// The arguments are nil or objects.
unsafe fn identify(mil: Id, weights: Id) -> Result<(String, Vec<String>), String> {
    // SAFETY: the caller's promise; each class is checked before its messages are sent.
    unsafe {
        if !is_kind(mil, c"NSData") {
            return Err("the text is no NSData (ANE-001)".to_owned());
        }
        if weights.is_null() {
            return Err("the weights are nil where an empty dictionary was meant (ANE-002)".to_owned());
        }
        if !is_kind(weights, c"NSDictionary") {
            return Err("the weights are no NSDictionary".to_owned());
        }
        let mut files = Vec::new();
        for key in elements(objc2::msg_send![weights, allKeys]) {
            if !is_kind(key, c"NSString") {
                return Err("a key of the weights is no NSString".to_owned());
            }
            let path = text(key);
            if !path.starts_with(mil::text::MODEL_PATH) {
                return Err(format!("the key {path} does not begin with {}", mil::text::MODEL_PATH));
            }
            let entry = value(weights, key);
            if !is_kind(entry, c"NSDictionary") {
                return Err(format!("the entry {path} is no NSDictionary"));
            }
            let data = value(entry, crate::foundation::string("data"));
            let offset = value(entry, crate::foundation::string("offset"));
            if !is_kind(data, c"NSData") || !is_kind(offset, c"NSNumber") {
                return Err(format!("the entry {path} lacks an NSData `data` or an NSNumber `offset`"));
            }
            files.push((path, bytes(data)));
        }
        files.sort_unstable();
        let mut weights = Sha256::new();
        for (path, content) in &files {
            weights.update(path.as_bytes());
            weights.update(content.len().to_le_bytes());
            weights.update(content);
        }
        let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let hex = format!("{}_{}", hex(&Sha256::digest(bytes(mil))), hex(&weights.finalize()));
        Ok((hex, files.into_iter().map(|(path, _)| path).collect()))
    }
}
