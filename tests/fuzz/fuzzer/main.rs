//! All targets behind libFuzzer's own `main`: the variable `VMM_FUZZ_TARGET` says which. Built and run by
//! `cargo xtask fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::run_chosen(data));
