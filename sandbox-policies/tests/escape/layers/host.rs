//! The library's own steps, the very files, compiled into this program: what they do is in force one by one here, and in
//! the product only as a whole.

macro_rules! step {
    ($name:ident, $path:literal) => {
        #[expect(unused, reason = "the library uses the rest of this file, and its tests are the library's")]
        #[path = $path]
        pub mod $name;
    };
}

step!(capabilities, "../../../src/capabilities.rs");
step!(landlock, "../../../src/landlock.rs");
step!(limits, "../../../src/limits.rs");
step!(process, "../../../src/process.rs");
step!(root, "../../../src/root.rs");
step!(system_calls, "../../../src/system_calls.rs");
