//! Paths, brace notation and globs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use proptest::prelude::*;
use saccade::shard::{ShardError, expand};

use super::{folder, no_cache, text};

#[test]
fn braces_expand_in_the_order_in_which_they_are_written() {
    let check = |pattern: &str, expected: &[&str]| {
        let folder = folder();
        for name in expected {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = expand(&[format!("{}/{pattern}", folder.path().display())], &no_cache()).unwrap();
        let names: Vec<&str> =
            found.iter().map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, expected, "{pattern}");
    };
    check("a.tar", &["a.tar"]);
    check("a-{1..3}.tar", &["a-1.tar", "a-2.tar", "a-3.tar"]);
    check("a-{3..1}.tar", &["a-3.tar", "a-2.tar", "a-1.tar"]);
    check("a-{8..11}.tar", &["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]);
    check("a-{08..11}.tar", &["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
    check("a-{0..010..5}.tar", &["a-000.tar", "a-005.tar", "a-010.tar"]);
    check("a-{000000..000001}.tar", &["a-000000.tar", "a-000001.tar"]);
    check("{b,a}-{0..1}.tar", &["b-0.tar", "b-1.tar", "a-0.tar", "a-1.tar"]);
    check("{x{1..2},y,}z.tar", &["x1z.tar", "x2z.tar", "yz.tar", "z.tar"]);
    check("{x,y}/{0..1}/s.tar", &["x/0/s.tar", "x/1/s.tar", "y/0/s.tar", "y/1/s.tar"]);
    check("{b,a}-*.tar", &["b-1.tar", "b-2.tar", "a-10.tar", "a-9.tar"]);
    check("{1..2}", &["1", "2"]);
}

#[test]
fn a_name_that_exists_is_taken_as_it_stands() {
    let folder = folder();
    for name in ["a{1..2}.tar", "b[1].tar", "c*.tar"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    fs::write(folder.path().join("c1.tar"), "").unwrap();
    for name in ["a{1..2}.tar", "b[1].tar", "c*.tar"] {
        let path = folder.path().join(name);
        assert_eq!(expand(&[text(&path)], &no_cache()).unwrap(), [path]);
    }
}

#[test]
fn globs_match_files_and_are_sorted() {
    let folder = folder();
    let names =
        ["d/b.tar", "d/a10.tar", "d/a9.tar", "d/a-b.tar", "e/a9.tar", "d/a9.tar.index", "d/.hidden.tar", "d/sub.tar/x"];
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let check = |pattern: &str, expected: &[&str]| {
        let found = expand(&[format!("{}/{pattern}", folder.path().display())], &no_cache());
        let found = found.unwrap_or_else(|error| panic!("{pattern}: {error}"));
        let names: Vec<&str> =
            found.iter().map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, expected, "{pattern}");
    };
    check("d/*.tar", &["d/a-b.tar", "d/a10.tar", "d/a9.tar", "d/b.tar"]);
    check("d/*", &["d/a-b.tar", "d/a10.tar", "d/a9.tar", "d/b.tar"]);
    check("d/a?.tar", &["d/a9.tar"]);
    check("*/a9.tar", &["d/a9.tar", "e/a9.tar"]);
    check("[d-e]/a[0-9].tar", &["d/a9.tar", "e/a9.tar"]);
    check("d/a[!0-9]*", &["d/a-b.tar"]);
    check("d/a[^0-9]*", &["d/a-b.tar"]);
    check("d/*[b].*a*", &["d/a-b.tar", "d/b.tar"]);
    check("d/*a*0*", &["d/a10.tar"]);
    check("d/a[]-]b.tar", &["d/a-b.tar"]);
    check("d/.h*", &["d/.hidden.tar"]);
    check("{e,d}/a9*", &["e/a9.tar", "d/a9.tar"]);
    check("d//*b.tar", &["d/a-b.tar", "d/b.tar"]);
}

#[test]
fn patterns_that_stand_for_nothing_are_refused_by_name() {
    let folder = folder();
    fs::write(folder.path().join("a-0.tar"), "").unwrap();
    fs::write(folder.path().join("a-2.tar"), "").unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let check = |pattern: &str, expected: &str| {
        let error = expand(&[format!("{}/{pattern}", folder.path().display())], &no_cache()).unwrap_err().to_string();
        assert_eq!(error.replace(&text(folder.path()), "DIR"), expected);
    };
    check("a-{0..2}.tar", "DIR/a-1.tar: shard not found, named by `DIR/a-{0..2}.tar`");
    check("a-1.tar", "DIR/a-1.tar: shard not found, named by `DIR/a-1.tar`");
    check("b*.tar", "DIR/b*.tar: no shard matches");
    check("nowhere/*.tar", "DIR/nowhere/*.tar: no shard matches");
    check("{a,b}-*.tar", "DIR/b-*.tar: no shard matches");
    check("sub", "DIR/sub: not a file, a shard is one tar file");
    check("a-{0..2.tar", "DIR/a-{0..2.tar: unreadable braces, write {000000..000123} or {a,b}");
    check("a-0}.tar", "DIR/a-0}.tar: unreadable braces, write {000000..000123} or {a,b}");
    check("a-{0..x}.tar", "DIR/a-{0..x}.tar: unreadable braces, write {000000..000123} or {a,b}");
    check("a-{0..2..0}.tar", "DIR/a-{0..2..0}.tar: unreadable braces, write {000000..000123} or {a,b}");
    check("a-{0}.tar", "DIR/a-{0}.tar: unreadable braces, write {000000..000123} or {a,b}");
    check("{0..99999999999}", "DIR/{0..99999999999}: stands for more than 1000000 shards");
    check("{0..9999}{0..9999}", "DIR/{0..9999}{0..9999}: stands for more than 1000000 shards");
    check("{0..9223372036854775807}", "DIR/{0..9223372036854775807}: stands for more than 1000000 shards");
    check("{a-0,a-2,a-0}.tar", "DIR/a-0.tar: listed twice, a shard may be named only once");
    assert!(matches!(expand(&[], &no_cache()), Err(ShardError::NoPatterns)));
}

#[test]
fn a_shard_that_is_named_by_two_names_is_refused() {
    let folder = folder();
    let shard = |name: &str| folder.path().join(name);
    fs::create_dir(shard("sub")).unwrap();
    fs::write(shard("a.tar"), "").unwrap();
    fs::write(shard("sub/b.tar"), "").unwrap();
    symlink(shard("a.tar"), shard("link.tar")).unwrap();
    symlink(shard("sub"), shard("other")).unwrap();
    let check = |patterns: &[&str], expected: &str| {
        let patterns: Vec<String> = patterns.iter().map(|pattern| text(&shard(pattern))).collect();
        let error = expand(&patterns, &no_cache()).unwrap_err().to_string();
        assert_eq!(error.replace(&text(folder.path()), "DIR"), expected);
    };
    check(&["*.tar"], "DIR/link.tar: the same shard as DIR/a.tar, a shard may be named only once");
    check(&["link.tar", "a.tar"], "DIR/a.tar: the same shard as DIR/link.tar, a shard may be named only once");
    check(&["{sub,other}/b.tar"], "DIR/other/b.tar: the same shard as DIR/sub/b.tar, a shard may be named only once");
    check(&["a.tar", "sub/../a.tar"], "DIR/sub/../a.tar: the same shard as DIR/a.tar, a shard may be named only once");
    // A link alone is as good a name as any.
    let names = [text(&shard("link.tar")), text(&shard("other/b.tar"))];
    assert_eq!(expand(&names, &no_cache()).unwrap(), names.map(PathBuf::from));
}

proptest! {
    #[test]
    fn random_patterns_never_panic(pattern in r"[a-c{},.0-9*?\[\]!^/-]{0,24}") {
        let folder = folder();
        let _ = expand(&[format!("{}/{pattern}", folder.path().display())], &no_cache());
    }
}
