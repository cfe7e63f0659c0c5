//! An AuthenticationConfiguration: which issuers' tokens are accepted, and who may come without any identity. Read and
//! validated here, in upstream's words.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration>.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;
use skiff_cel::types::{any, string};
use skiff_cel::{Decl, Env, Program, Type, compile};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, names};

use crate::authn::jose::ALGORITHMS;
use crate::files::Shape;
use crate::trust;

const MAX_ISSUERS: usize = 64;

/// What the file may say.
pub static SHAPE: Shape = Shape {
    kind: "AuthenticationConfiguration",
    versions: &["v1", "v1beta1", "v1alpha1"],
    leaves: &[
        "jwt[].issuer.url",
        "jwt[].issuer.discoveryURL",
        "jwt[].issuer.certificateAuthority",
        "jwt[].issuer.audiences[]",
        "jwt[].issuer.audienceMatchPolicy",
        "jwt[].issuer.egressSelectorType",
        "jwt[].claimValidationRules[].claim",
        "jwt[].claimValidationRules[].requiredValue",
        "jwt[].claimValidationRules[].expression",
        "jwt[].claimValidationRules[].message",
        "jwt[].claimMappings.username.claim",
        "jwt[].claimMappings.username.prefix",
        "jwt[].claimMappings.username.expression",
        "jwt[].claimMappings.groups.claim",
        "jwt[].claimMappings.groups.prefix",
        "jwt[].claimMappings.groups.expression",
        "jwt[].claimMappings.uid.claim",
        "jwt[].claimMappings.uid.expression",
        "jwt[].claimMappings.extra[].key",
        "jwt[].claimMappings.extra[].valueExpression",
        "jwt[].userValidationRules[].expression",
        "jwt[].userValidationRules[].message",
        "anonymous.enabled bool",
        "anonymous.conditions[].path",
    ],
};

static CLAIMS: LazyLock<Env> = LazyLock::new(|| Env::new().with("claims", Decl::map(any())));
static USER: LazyLock<Env> = LazyLock::new(|| {
    let fields = [
        ("username", string()),
        ("uid", string()),
        ("groups", Decl::list(string())),
        ("extra", Decl::map(Decl::list(string()))),
    ];
    Env::new().with("user", Decl::object("kubernetes.UserInfo", fields))
});

/// Who may come without any identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anonymous {
    /// Nobody.
    Refused,
    /// Everybody.
    Allowed,
    /// Who asks for one of these paths.
    For(Vec<String>),
}

impl Anonymous {
    /// Whether a request for a path may come without any identity.
    pub fn allows(&self, path: &str) -> bool {
        match self {
            Self::Refused => false,
            Self::Allowed => true,
            Self::For(paths) => paths.iter().any(|own| own == path),
        }
    }
}

/// Where a part of an identity comes from.
#[derive(Debug, Default)]
#[expect(clippy::large_enum_variant, reason = "an issuer has three of them, read once")]
pub enum Source {
    /// It is empty.
    #[default]
    Nothing,
    /// A claim, with what is put before it.
    Claim(String, String),
    /// An expression on all claims.
    Expression(Program),
}

/// An expression that must be true, and what is said where it is not.
#[derive(Debug)]
pub struct Rule {
    /// Its text.
    pub text: String,
    /// Itself, compiled.
    pub program: Program,
    /// What is said where it is false.
    pub message: String,
}

/// An issuer of tokens, and how their claims become an identity.
#[derive(Debug)]
pub struct Issuer {
    /// What tokens say that they come from.
    pub url: String,
    /// Where its discovery document is, if not below the URL.
    pub discovery_url: String,
    /// Who must have signed its certificate, in PEM; the system's authorities where empty.
    pub authority: String,
    /// One of these a token must be meant for.
    pub audiences: Vec<String>,
    /// What tokens may be signed with.
    pub algorithms: Vec<String>,
    /// Claims that must have certain values.
    pub required: Vec<(String, String)>,
    /// What must hold of the claims.
    pub claim_rules: Vec<Rule>,
    /// What must hold of the identity.
    pub user_rules: Vec<Rule>,
    /// The user's name.
    pub username: Source,
    /// The groups.
    pub groups: Source,
    /// The UID.
    pub uid: Source,
    /// Further facts, by their keys.
    pub extra: Vec<(String, Program)>,
}

/// What the configuration says.
#[derive(Debug)]
pub struct Configuration {
    /// Whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// Who may come without any identity, if it is said.
    pub anonymous: Option<Anonymous>,
}

impl Configuration {
    /// Validates what was read. `own` is the issuer of the server's own tokens, if it has any; `algorithms` are those
    /// that tokens may be signed with.
    ///
    /// # Errors
    /// All that is wrong with it, in upstream's words.
    pub fn of(tree: &Value, own: Option<&str>, algorithms: &[String]) -> Result<Self, String> {
        let mut errors = ErrorList::new();
        let (root, list) = (FieldPath::new("jwt"), tree.list_at(&["jwt"]));
        if list.len() > MAX_ISSUERS {
            errors.push(FieldError::too_many(&root, list.len(), MAX_ISSUERS));
            return Err(shown(&errors));
        }
        let (mut urls, mut discovery_urls) = (BTreeSet::new(), BTreeSet::new());
        let mut issuers = Vec::new();
        for (index, entry) in list.iter().enumerate() {
            let path = root.index(index);
            let issuer = Reader { errors: &mut errors, email: false, email_verified: false }.issuer(entry, own, &path);
            let place = path.child("issuer");
            if !urls.insert(issuer.url.clone()) {
                errors.push(FieldError::duplicate(&place.child("url"), issuer.url.as_str()));
            }
            if !issuer.discovery_url.is_empty() && !discovery_urls.insert(issuer.discovery_url.clone()) {
                errors.push(FieldError::duplicate(&place.child("discoveryURL"), issuer.discovery_url.as_str()));
            }
            issuers.push(Issuer { algorithms: algorithms.to_vec(), ..issuer });
        }
        let anonymous = tree.get("anonymous").filter(|own| own.is_object()).map(|own| anonymous(own, &mut errors));
        if errors.is_empty() { Ok(Self { issuers, anonymous }) } else { Err(shown(&errors)) }
    }

    /// All algorithms that upstream knows: what tokens of structured issuers may be signed with.
    pub fn every_algorithm() -> Vec<String> {
        ALGORITHMS.map(str::to_owned).to_vec()
    }
}

/// Several faults as upstream joins them.
pub(crate) fn shown(errors: &ErrorList) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors.iter().map(ToString::to_string) {
        if !texts.contains(&error) {
            texts.push(error);
        }
    }
    if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
}

fn anonymous(own: &Value, errors: &mut ErrorList) -> Anonymous {
    let paths: Vec<String> =
        own.list_at(&["conditions"]).iter().map(|condition| condition.str_at(&["path"]).to_owned()).collect();
    match (own.bool_at(&["enabled"]), paths.is_empty()) {
        (false, true) => Anonymous::Refused,
        (true, true) => Anonymous::Allowed,
        (true, false) => Anonymous::For(paths),
        (false, false) => {
            let conditions = own.get("conditions").cloned().unwrap_or_default();
            let text = "enabled should be set to true when conditions are defined";
            errors.push(FieldError::invalid(&FieldPath::new("anonymous.conditions"), conditions, text));
            Anonymous::Refused
        }
    }
}

/// Reads one issuer.
struct Reader<'a> {
    errors: &'a mut ErrorList,
    /// Whether the user's name is made of the claim of that name.
    email: bool,
    /// Whether something looks at that claim.
    email_verified: bool,
}

impl Reader<'_> {
    fn issuer(&mut self, entry: &Value, own: Option<&str>, path: &FieldPath) -> Issuer {
        let place = path.child("issuer");
        let text = |field: &str| entry.str_at(&["issuer", field]).to_owned();
        let (url, discovery_url) = (text("url"), text("discoveryURL"));
        match url.as_str() {
            "" => self.errors.push(FieldError::required(&place.child("url"), "")),
            _ => self.url(&url, own, &place.child("url")),
        }
        if !discovery_url.is_empty() {
            let place = place.child("discoveryURL");
            if !url.is_empty() && url.trim_end_matches('/') == discovery_url.trim_end_matches('/') {
                self.invalid(&place, &discovery_url, "discoveryURL must be different from URL");
            }
            self.url(&discovery_url, None, &place);
        }
        let audiences = self.audiences(entry, &place);
        let authority = text("certificateAuthority");
        if !authority.is_empty()
            && let Err(error) = trust::verified(authority.as_bytes(), None)
        {
            self.invalid(&place.child("certificateAuthority"), "<omitted>", &error);
        }
        let egress = text("egressSelectorType");
        if !egress.is_empty() {
            let why = "egress selector is not supported when StructuredAuthenticationConfigurationEgressSelector feature gate is disabled";
            self.invalid(&place.child("egressSelectorType"), &egress, why);
        }
        let (required, claim_rules) = self.claim_rules(entry, &path.child("claimValidationRules"));
        let mut issuer = Issuer {
            url,
            discovery_url,
            authority,
            audiences,
            algorithms: Vec::new(),
            required,
            claim_rules,
            user_rules: Vec::new(),
            username: Source::Nothing,
            groups: Source::Nothing,
            uid: Source::Nothing,
            extra: Vec::new(),
        };
        self.mappings(entry, &path.child("claimMappings"), &mut issuer);
        issuer.user_rules = self.user_rules(entry, &path.child("userValidationRules"));
        issuer
    }

    fn invalid(&mut self, path: &FieldPath, value: &str, detail: &str) {
        self.errors.push(FieldError::invalid(path, value, detail));
    }

    fn url(&mut self, url: &str, own: Option<&str>, path: &FieldPath) {
        if own == Some(url) {
            self.invalid(path, url, &format!("URL must not overlap with disallowed issuers: [{url}]"));
        }
        let (before, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (before, query) = before.split_once('?').unwrap_or((before, ""));
        let (scheme, rest) = before.split_once("://").unwrap_or(("", before));
        if !scheme.eq_ignore_ascii_case("https") {
            self.invalid(path, url, "URL scheme must be https");
        } else if let Err(error) = before.parse::<http::Uri>() {
            self.invalid(path, url, &format!("parse {url:?}: {error}"));
        }
        if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
            self.invalid(path, url, "URL must not contain a username or password");
        }
        if !query.is_empty() {
            self.invalid(path, url, "URL must not contain a query");
        }
        if !fragment.is_empty() {
            self.invalid(path, url, "URL must not contain a fragment");
        }
    }

    fn audiences(&mut self, entry: &Value, place: &FieldPath) -> Vec<String> {
        let path = place.child("audiences");
        let given = entry.list_at(&["issuer", "audiences"]).iter();
        let audiences: Vec<String> = given.map(|audience| audience.as_str().unwrap_or("").to_owned()).collect();
        if audiences.is_empty() {
            self.errors.push(FieldError::required(&path, format!("at least one {path} is required")));
            return audiences;
        }
        for (index, audience) in audiences.iter().enumerate() {
            if audience.is_empty() {
                self.errors.push(FieldError::required(&path.index(index), ""));
            }
            if audiences[..index].contains(audience) {
                self.errors.push(FieldError::duplicate(&path.index(index), audience.as_str()));
            }
        }
        let (policy, path) = (entry.str_at(&["issuer", "audienceMatchPolicy"]), place.child("audienceMatchPolicy"));
        if audiences.len() > 1 && policy != "MatchAny" {
            self.invalid(&path, policy, "audienceMatchPolicy must be MatchAny for multiple audiences");
        }
        if audiences.len() == 1 && !matches!(policy, "" | "MatchAny") {
            self.invalid(&path, policy, "audienceMatchPolicy must be empty or MatchAny for single audience");
        }
        audiences
    }

    fn claim_rules(&mut self, entry: &Value, path: &FieldPath) -> (Vec<(String, String)>, Vec<Rule>) {
        let (mut required, mut rules) = (Vec::<(String, String)>::new(), Vec::<Rule>::new());
        let mut expressions = BTreeSet::new();
        for (index, rule) in entry.list_at(&["claimValidationRules"]).iter().enumerate() {
            let path = path.index(index);
            let text = |field: &str| rule.str_at(&[field]);
            let (claim, expression, message) = (text("claim"), text("expression"), text("message"));
            match (claim.is_empty(), expression.is_empty()) {
                (false, false) => self.invalid(&path, claim, "claim and expression can't both be set"),
                (true, true) => self.errors.push(FieldError::required(&path, "claim or expression is required")),
                (false, true) => {
                    if !message.is_empty() {
                        self.invalid(&path.child("message"), message, "may not be specified when claim is set");
                    }
                    if required.iter().any(|(own, _)| own == claim) {
                        self.errors.push(FieldError::duplicate(&path.child("claim"), claim));
                    }
                    required.push((claim.to_owned(), text("requiredValue").to_owned()));
                }
                (true, false) => {
                    let value = text("requiredValue");
                    if !value.is_empty() {
                        let why = "may not be specified when expression is set";
                        self.invalid(&path.child("requiredValue"), value, why);
                    }
                    let path = path.child("expression");
                    if !expressions.insert(expression) {
                        self.errors.push(FieldError::duplicate(&path, expression));
                        continue;
                    }
                    rules.extend(self.rule(&CLAIMS, expression, message, &path));
                }
            }
        }
        (required, rules)
    }

    fn user_rules(&mut self, entry: &Value, path: &FieldPath) -> Vec<Rule> {
        let (mut rules, mut expressions) = (Vec::new(), BTreeSet::new());
        for (index, rule) in entry.list_at(&["userValidationRules"]).iter().enumerate() {
            let path = path.index(index).child("expression");
            let expression = rule.str_at(&["expression"]);
            if expression.is_empty() {
                self.errors.push(FieldError::required(&path, ""));
            } else if !expressions.insert(expression) {
                self.errors.push(FieldError::duplicate(&path, expression));
            } else {
                rules.extend(self.rule(&USER, expression, rule.str_at(&["message"]), &path));
            }
        }
        rules
    }

    fn rule(&mut self, env: &Env, text: &str, message: &str, path: &FieldPath) -> Option<Rule> {
        let program = self.compiled(env, text, Some(Type::Bool), path)?;
        self.email_verified |= program.selects("claims", "email_verified");
        Some(Rule { text: text.to_owned(), program, message: message.to_owned() })
    }

    fn compiled(&mut self, env: &Env, text: &str, wanted: Option<Type>, path: &FieldPath) -> Option<Program> {
        let program = match compile(env, text) {
            Ok(program) => program,
            Err(error) => {
                self.invalid(path, text, &format!("compilation failed: {error}"));
                return None;
            }
        };
        match wanted.filter(|wanted| *wanted != program.result) {
            Some(wanted) => {
                self.invalid(path, text, &format!("must evaluate to {wanted}"));
                None
            }
            None => Some(program),
        }
    }

    fn mappings(&mut self, entry: &Value, path: &FieldPath, issuer: &mut Issuer) {
        let empty = Value::Null;
        let mapping = |field: &str| entry.get("claimMappings").and_then(|own| own.get(field)).unwrap_or(&empty);
        issuer.username = self.prefixed(mapping("username"), true, &path.child("username"));
        if let Source::Expression(program) = &issuer.username {
            self.email = program.selects("claims", "email");
            self.email_verified |= program.selects("claims", "email_verified");
        }
        issuer.groups = self.prefixed(mapping("groups"), false, &path.child("groups"));
        let uid = mapping("uid");
        issuer.uid = match (uid.str_at(&["claim"]), uid.str_at(&["expression"])) {
            ("", "") => Source::Nothing,
            (claim, "") => Source::Claim(claim.to_owned(), String::new()),
            ("", text) => {
                let program = self.compiled(&CLAIMS, text, None, &path.child("uid").child("expression"));
                program.map_or(Source::Nothing, Source::Expression)
            }
            _ => {
                self.invalid(&path.child("uid"), "", "claim and expression can't both be set");
                Source::Nothing
            }
        };
        issuer.extra = self.extra(mapping("extra"), &path.child("extra"));
        if self.email && !self.email_verified {
            let text = mapping("username").str_at(&["expression"]);
            self.invalid(
                &path.child("username").child("expression"),
                text,
                "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            );
        }
    }

    fn prefixed(&mut self, mapping: &Value, needed: bool, path: &FieldPath) -> Source {
        let prefix = mapping.get("prefix").and_then(Value::as_str);
        match (mapping.str_at(&["claim"]), mapping.str_at(&["expression"])) {
            ("", "") => {
                if needed {
                    self.errors.push(FieldError::required(path, "claim or expression is required"));
                }
                Source::Nothing
            }
            (claim, "") => {
                if prefix.is_none() {
                    let why =
                        "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    self.errors.push(FieldError::required(&path.child("prefix"), why));
                }
                Source::Claim(claim.to_owned(), prefix.unwrap_or("").to_owned())
            }
            ("", text) => {
                if let Some(prefix) = prefix {
                    self.invalid(&path.child("prefix"), prefix, "may not be specified when expression is set");
                }
                let program = self.compiled(&CLAIMS, text, None, &path.child("expression"));
                program.map_or(Source::Nothing, Source::Expression)
            }
            _ => {
                self.invalid(path, "", "claim and expression can't both be set");
                Source::Nothing
            }
        }
    }

    fn extra(&mut self, list: &Value, path: &FieldPath) -> Vec<(String, Program)> {
        let mut extra: Vec<(String, Program)> = Vec::new();
        let mut keys = BTreeSet::new();
        for (index, mapping) in list.as_array().into_iter().flatten().enumerate() {
            let path = path.index(index);
            let (key, text) = (mapping.str_at(&["key"]), mapping.str_at(&["valueExpression"]));
            self.extra_key(key, &path.child("key"));
            if !keys.insert(key) {
                self.errors.push(FieldError::duplicate(&path.child("key"), key));
                continue;
            }
            let path = path.child("valueExpression");
            if text.is_empty() {
                self.errors.push(FieldError::required(&path, ""));
                continue;
            }
            let Some(program) = self.compiled(&CLAIMS, text, None, &path) else { continue };
            self.email_verified |= program.selects("claims", "email_verified");
            extra.push((key.to_owned(), program));
        }
        extra
    }

    fn extra_key(&mut self, key: &str, path: &FieldPath) {
        match key.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty()) {
            None if key.is_empty() => self.errors.push(FieldError::required(path, "")),
            None => self.invalid(path, key, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
            Some((domain, _)) => {
                for fault in names::check_dns_subdomain(domain) {
                    self.invalid(path, domain, &fault);
                }
            }
        }
        if key.to_lowercase() != key {
            self.invalid(path, key, "must be lowercase");
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let below = |own: &str| domain == own || domain.strip_suffix(own).is_some_and(|rest| rest.ends_with('.'));
        if below("kubernetes.io") || below("k8s.io") {
            let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            self.invalid(path, key, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(jwt: Value, expected: Expect) {
        let of = Configuration::of(&json!({"jwt": jwt}), Some("https://own"), &Configuration::every_algorithm());
        let faults = of.expect_err("a fault");
        expected.assert_eq(&faults.trim_matches(['[', ']']).replace(", jwt[", "\njwt["));
    }

    #[test]
    fn faults_are_told_in_upstreams_words() {
        check(
            json!([{"issuer": {}, "claimMappings": {}}]),
            expect![[r#"
                jwt[0].issuer.url: Required value
                jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required
                jwt[0].claimMappings.username: Required value: claim or expression is required"#]],
        );
        check(
            json!([{
                "issuer": {"url": "http://u@x?q#f", "discoveryURL": "http://u@x?q#f", "audiences": ["a", "a", ""],
                    "certificateAuthority": "none", "egressSelectorType": "cluster"},
                "claimValidationRules": [{"claim": "a", "message": "m"}, {"claim": "a"}, {}, {"claim": "a", "expression": "b"},
                    {"expression": "claims.a", "requiredValue": "v"}, {"expression": "true"}, {"expression": "true"}],
                "claimMappings": {"username": {"expression": "claims.email"}, "groups": {"claim": "g"},
                    "uid": {"claim": "a", "expression": "b"},
                    "extra": [{"key": "a", "valueExpression": "'x'"}, {"key": "K8s.io/x", "valueExpression": "'x'"},
                        {"key": "e.com/x"}, {"key": "e.com/x", "valueExpression": "'x'"}, {"key": "a.k8s.io/x", "valueExpression": "x"}]},
                "userValidationRules": [{}, {"expression": "user.none"}, {"expression": "user.uid"}]
            }]),
            expect![[r#"
                jwt[0].issuer.url: Invalid value: "http://u@x?q#f": URL scheme must be https
                jwt[0].issuer.url: Invalid value: "http://u@x?q#f": URL must not contain a username or password
                jwt[0].issuer.url: Invalid value: "http://u@x?q#f": URL must not contain a query
                jwt[0].issuer.url: Invalid value: "http://u@x?q#f": URL must not contain a fragment
                jwt[0].issuer.discoveryURL: Invalid value: "http://u@x?q#f": discoveryURL must be different from URL
                jwt[0].issuer.discoveryURL: Invalid value: "http://u@x?q#f": URL scheme must be https
                jwt[0].issuer.discoveryURL: Invalid value: "http://u@x?q#f": URL must not contain a username or password
                jwt[0].issuer.discoveryURL: Invalid value: "http://u@x?q#f": URL must not contain a query
                jwt[0].issuer.discoveryURL: Invalid value: "http://u@x?q#f": URL must not contain a fragment
                jwt[0].issuer.audiences[1]: Duplicate value: "a"
                jwt[0].issuer.audiences[2]: Required value
                jwt[0].issuer.audienceMatchPolicy: Invalid value: "": audienceMatchPolicy must be MatchAny for multiple audiences
                jwt[0].issuer.certificateAuthority: Invalid value: "<omitted>": unable to load root certificates: no PEM certificate was found
                jwt[0].issuer.egressSelectorType: Invalid value: "cluster": egress selector is not supported when StructuredAuthenticationConfigurationEgressSelector feature gate is disabled
                jwt[0].claimValidationRules[0].message: Invalid value: "m": may not be specified when claim is set
                jwt[0].claimValidationRules[1].claim: Duplicate value: "a"
                jwt[0].claimValidationRules[2]: Required value: claim or expression is required
                jwt[0].claimValidationRules[3]: Invalid value: "a": claim and expression can't both be set
                jwt[0].claimValidationRules[4].requiredValue: Invalid value: "v": may not be specified when expression is set
                jwt[0].claimValidationRules[4].expression: Invalid value: "claims.a": must evaluate to bool
                jwt[0].claimValidationRules[6].expression: Duplicate value: "true"
                jwt[0].claimMappings.groups.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing
                jwt[0].claimMappings.uid: Invalid value: "": claim and expression can't both be set
                jwt[0].claimMappings.extra[0].key: Invalid value: "a": must be a domain-prefixed path (such as "acme.io/foo")
                jwt[0].claimMappings.extra[1].key: Invalid value: "K8s.io": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                jwt[0].claimMappings.extra[1].key: Invalid value: "K8s.io/x": must be lowercase
                jwt[0].claimMappings.extra[2].valueExpression: Required value
                jwt[0].claimMappings.extra[3].key: Duplicate value: "e.com/x"
                jwt[0].claimMappings.extra[4].key: Invalid value: "a.k8s.io/x": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use
                jwt[0].claimMappings.extra[4].valueExpression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                jwt[0].claimMappings.username.expression: Invalid value: "claims.email": claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression
                jwt[0].userValidationRules[0].expression: Required value
                jwt[0].userValidationRules[1].expression: Invalid value: "user.none": compilation failed: ERROR: <input>:1:5: undefined field 'none'
                 | user.none
                 | ....^
                jwt[0].userValidationRules[2].expression: Invalid value: "user.uid": must evaluate to bool"#]],
        );
        let good = json!({"issuer": {"url": "https://own", "audiences": ["a"]}, "claimMappings": {"username": {"claim": "s", "prefix": ""}}});
        check(
            json!([good, good]),
            expect![[r#"
            jwt[0].issuer.url: Invalid value: "https://own": URL must not overlap with disallowed issuers: [https://own]
            jwt[1].issuer.url: Invalid value: "https://own": URL must not overlap with disallowed issuers: [https://own]
            jwt[1].issuer.url: Duplicate value: "https://own""#]],
        );
        let faults = Configuration::of(&json!({"anonymous": {"conditions": [{"path": "/x"}]}}), None, &[]);
        expect![[r#"anonymous.conditions: Invalid value: [{"path":"/x"}]: enabled should be set to true when conditions are defined"#]]
            .assert_eq(&faults.expect_err("a fault"));
    }

    #[test]
    fn an_email_counts_only_where_it_is_verified() {
        let with = |username: &str| {
            let jwt = json!({"issuer": {"url": "https://x", "audiences": ["a"]}, "claimMappings": {"username": {"expression": username}}});
            Configuration::of(&json!({"jwt": [jwt]}), None, &[]).map(|own| own.issuers.len())
        };
        assert!(with("claims.?email.orValue('x')").is_err());
        assert_eq!(with("claims.email_verified == true ? claims.email : claims.sub"), Ok(1));
        assert_eq!(with("claims.sub"), Ok(1));
    }
}
