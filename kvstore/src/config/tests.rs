use super::*;

fn parse(name: &str, options: &[&str]) -> Result<Config, ConfigError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    Config::parse(name, &options, Path::new("/state/store.redb"))
}

fn etcd(options: &[&str]) -> EtcdConfig {
    match parse("etcd", options) {
        Ok(Config::Etcd(config)) => config,
        other => panic!("expected an etcd configuration, got {other:?}"),
    }
}

fn refused(name: &str, options: &[&str]) -> String {
    parse(name, options).expect_err("must be refused").to_string()
}

#[test]
fn embedded_has_a_default_place() {
    assert_eq!(parse("embedded", &[]), Ok(Config::Embedded { path: "/state/store.redb".into() }));
    assert_eq!(parse("embedded", &["embedded.path=/x"]), Ok(Config::Embedded { path: "/x".into() }));
}

#[test]
fn unknown_names_are_told() {
    assert!(refused("consul", &[]).contains("\"consul\""));
    assert!(refused("etcd", &["etcd.addres=a:1"]).contains("\"etcd.addres\""));
    assert!(refused("embedded", &["etcd.address=a:1"]).contains("\"etcd.address\""));
    assert!(refused("etcd", &["etcd.address"]).contains("key=value"));
    assert!(refused("etcd", &["etcd.address=a:1", "etcd.address=b:1"]).contains("twice"));
    assert!(refused("etcd", &[]).contains("etcd.address"));
}

#[test]
fn addresses_get_a_scheme() {
    assert_eq!(etcd(&["etcd.address=a:1, http://[::1]:2/"]).addresses, ["http://a:1", "http://[::1]:2"]);
    assert_eq!(etcd(&["etcd.address=a:1", "etcd.ca=/ca"]).addresses, ["https://a:1"]);
    for address in ["a", "a:", "a:0", "a:70000", "ftp://a:1", "::1:2", ":1", "u@a:1", "a b:1", "a:1,a:1", "a:1,"] {
        assert!(refused("etcd", &[&format!("etcd.address={address}")]).contains("etcd.address"), "{address}");
    }
    assert!(refused("etcd", &["etcd.address=https://a:1"]).contains("etcd.ca"));
    assert!(refused("etcd", &["etcd.address=http://a:1", "etcd.ca=/ca"]).contains("not https"));
}

#[test]
fn halves_are_refused() {
    assert!(refused("etcd", &["etcd.address=a:1", "etcd.user=u"]).contains("etcd.password"));
    assert!(refused("etcd", &["etcd.address=a:1", "etcd.password=p"]).contains("etcd.user"));
    assert!(refused("etcd", &["etcd.address=a:1", "etcd.cert=c"]).contains("etcd.key"));
    assert!(refused("etcd", &["etcd.address=a:1", "etcd.key=c"]).contains("etcd.cert"));
}

#[test]
fn passwords_are_not_printed() {
    let config = etcd(&["etcd.address=a:1", "etcd.user=u", "etcd.password=secret=1"]);
    assert_eq!(config.user, Some(("u".to_owned(), "secret=1".to_owned())));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn times_have_units() {
    assert_eq!(etcd(&["etcd.address=a:1"]).timeout, DEFAULT_TIMEOUT);
    assert_eq!(etcd(&["etcd.address=a:1", "etcd.timeout=250ms"]).timeout, Duration::from_millis(250));
    for time in ["5", "s", "0s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
        assert!(refused("etcd", &["etcd.address=a:1", &format!("etcd.timeout={time}")]).contains("etcd.timeout"));
    }
}

#[test]
fn a_file_gives_what_options_do_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("etcd.yaml");
    let option = format!("etcd.config={}", path.display());
    let yaml = "endpoints:\n- https://a:1\n- b:2\nca-file: /ca\ncert-file: /cert\nkey-file: /key\n";
    std::fs::write(&path, yaml).expect("write");
    let config = etcd(&[&option, "etcd.ca=/other"]);
    assert_eq!(config.addresses, ["https://a:1", "https://b:2"]);
    assert_eq!((config.ca, config.identity), (Some("/other".into()), Some(("/cert".into(), "/key".into()))));
    for bad in ["endpoint: [a:1]", "endpoints: {", "endpoints: a\nendpoints: b", ""] {
        std::fs::write(&path, bad).expect("write");
        assert!(parse("etcd", &[&option]).is_err(), "{bad:?}");
    }
    std::fs::remove_file(&path).expect("remove");
    assert!(refused("etcd", &[&option]).contains("etcd.yaml"));
}

#[test]
fn a_file_of_etcds_own_clients_is_understood() {
    let text = "endpoints:\n- https://[2001:db8::1]:2379\n- b:2379\ntrusted-ca-file: /ca\ncert-file: /cert\n\
                key-file: '/key'\nusername: reader\npassword: hunter2\n";
    let config = EtcdConfig::of_client_file(text).expect("understood");
    assert_eq!(config.addresses, ["https://[2001:db8::1]:2379", "https://b:2379"]);
    assert_eq!(config.user, Some(("reader".to_owned(), "hunter2".to_owned())));
    assert_eq!((config.ca, config.identity), (Some("/ca".into()), Some(("/cert".into(), "/key".into()))));
    for (bad, why) in [
        ("", "etcd.address"),
        ("endpoints: []", "etcd.address"),
        ("endpoints: [a:1]\ncert-file: /c", "etcd.key"),
        ("endpoints: [a:1]\nusername: reader", "etcd.password"),
        ("endpoints: [a:1]\ncolour: red", "colour"),
        ("endpoints: [a:1\npassword: hunter2", "etcd.config"),
    ] {
        let refused = EtcdConfig::of_client_file(bad).expect_err(bad).to_string();
        assert!(refused.contains(why) && !refused.contains("hunter2"), "{bad}: {refused}");
    }
}

proptest::proptest! {
    #[test]
    fn no_file_panics(text in "[a-z:, \\-\\[\\]{}'\"&*\n]{0,60}") {
        let _ = EtcdConfig::of_client_file(&text);
    }
}
