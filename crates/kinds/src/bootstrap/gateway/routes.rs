//! The schemas of routes: by HTTP, by gRPC, by the name that TLS asks for.

use serde_json::{Value, json};

use super::schema::{
    backend_ref, duration, group, header_name, hostname, kind, list, map, mirror_ref, name, number, object, one_of, or,
    parent_refs, port, precise_hostname, route_status, rules, section, text, with,
};

const UNIQUE_NAMES: (&str, &str) = (
    "Rule name must be unique within the route",
    "self.all(l1, !has(l1.name) || self.exists_one(l2, has(l2.name) && l1.name == l2.name))",
);

/// The spec and status of an HTTPRoute.
pub fn http_route() -> Value {
    let everything = json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]);
    let all = with(list(http_rule(), 16), json!({"minItems": 1, "default": everything}));
    let count = most_matches(128, |at| format!("self[{at}].matches.size()"));
    const MANY: &str = "While 16 rules and 64 matches per rule are allowed, the total number of matches across all \
        rules in a route must be less than 128";
    let spec = object(&[
        ("parentRefs", parent_refs()),
        ("hostnames", list(hostname(), 16)),
        ("rules", rules(all, &[UNIQUE_NAMES, (MANY, &count)])),
    ]);
    object(&[("spec!", spec), ("status", route_status())])
}

/// That all rules together have no more matches than this.
fn most_matches(most: u32, of: impl Fn(usize) -> String) -> String {
    let terms: Vec<String> = (0..16).map(|at| format!("(self.size() > {at} ? {} : 0)", of(at))).collect();
    format!("{} <= {most}", terms.join(" + "))
}

fn http_rule() -> Value {
    let first = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
    let backend = backend_ref(vec![("filters", http_filters())]);
    let timeouts = rules(
        object(&[("request", duration()), ("backendRequest", duration())]),
        &[(
            "backendRequest timeout cannot be longer than request timeout",
            "!(has(self.request) && has(self.backendRequest) && duration(self.request) != duration('0s') && \
             duration(self.backendRequest) > duration(self.request))",
        )],
    );
    let rule = object(&[
        ("name", section()),
        ("matches", or(list(http_match(), 64), first)),
        ("filters", http_filters()),
        ("backendRefs", list(backend, 16)),
        ("timeouts", timeouts),
    ]);
    let redirects = "(has(self.backendRefs) && size(self.backendRefs) > 0) ? (!has(self.filters) || \
        self.filters.all(f, !has(f.requestRedirect))): true";
    let own = |field: &str| format!("has(self.filters) && {}", replaces_prefix("self.filters", field));
    let of_backends = |field: &str| {
        let inner = replaces_prefix("b.filters", field);
        format!("has(self.backendRefs) && self.backendRefs.exists_one(b, (has(b.filters) && {inner}))")
    };
    let one_prefix = |found: String| {
        format!(
            "({found}) ? ((size(self.matches) != 1 || !has(self.matches[0].path) || \
             self.matches[0].path.type != 'PathPrefix') ? false : true) : true"
        )
    };
    const WORDS: [&str; 4] = [
        "When using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
        "When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
        "Within backendRefs, when using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
        "Within backendRefs, When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
    ];
    rules(
        rule,
        &[
            ("RequestRedirect filter must not be used together with backendRefs", redirects),
            (WORDS[0], &one_prefix(own("requestRedirect"))),
            (WORDS[1], &one_prefix(own("urlRewrite"))),
            (WORDS[2], &one_prefix(of_backends("requestRedirect"))),
            (WORDS[3], &one_prefix(of_backends("urlRewrite"))),
        ],
    )
}

fn replaces_prefix(filters: &str, field: &str) -> String {
    format!(
        "{filters}.exists_one(f, has(f.{field}) && has(f.{field}.path) && \
         f.{field}.path.type == 'ReplacePrefixMatch' && has(f.{field}.path.replacePrefixMatch))"
    )
}

fn match_kind() -> Value {
    or(one_of(&["Exact", "RegularExpression"]), json!("Exact"))
}

fn value_match(most: u32) -> Value {
    object(&[("type", match_kind()), ("name!", header_name()), ("value!", text(1, most))])
}

fn http_match() -> Value {
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    object(&[
        ("path", or(path_match(), json!({"type": "PathPrefix", "value": "/"}))),
        ("headers", map(value_match(4096), 16, "name")),
        ("queryParams", map(value_match(1024), 16, "name")),
        ("method", one_of(&methods)),
    ])
}

fn path_match() -> Value {
    const TYPES: &str = "['Exact', 'PathPrefix']";
    let of = |condition: &str| format!("(self.type in ['Exact','PathPrefix']) ? {condition} : true");
    let mut all = vec![(
        format!("value must be an absolute path and start with '/' when type one of {TYPES}"),
        of("self.value.startsWith('/')"),
    )];
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        let rule = of(&format!("!self.value.contains('{part}')"));
        all.push((format!("must not contain '{part}' when type one of {TYPES}"), rule));
    }
    for end in ["/..", "/."] {
        let rule = of(&format!("!self.value.endsWith('{end}')"));
        all.push((format!("must not end with '{end}' when type one of {TYPES}"), rule));
    }
    all.push((
        "type must be one of ['Exact', 'PathPrefix', 'RegularExpression']".to_owned(),
        "self.type in ['Exact','PathPrefix'] || self.type == 'RegularExpression'".to_owned(),
    ));
    const SHAPE: &str = "^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$";
    all.push((
        format!("must only contain valid characters (matching {SHAPE}) for types {TYPES}"),
        of(&format!("self.value.matches(r\"\"\"{SHAPE}\"\"\")")),
    ));
    let all: Vec<(&str, &str)> = all.iter().map(|(message, rule)| (message.as_str(), rule.as_str())).collect();
    let path = object(&[
        ("type", or(one_of(&["Exact", "PathPrefix", "RegularExpression"]), json!("PathPrefix"))),
        ("value", or(text(0, 1024), json!("/"))),
    ]);
    rules(path, &all)
}

fn headers_filter() -> Value {
    let header = object(&[("name!", header_name()), ("value!", text(1, 4096))]);
    let remove = json!({"type": "array", "items": {"type": "string"}, "maxItems": 16, "x-kubernetes-list-type": "set"});
    object(&[("set", map(header.clone(), 16, "name")), ("add", map(header, 16, "name")), ("remove", remove)])
}

fn mirror_filter() -> Value {
    let fraction = rules(
        object(&[
            ("numerator!", number(0, i32::MAX.into())),
            ("denominator", or(number(1, i32::MAX.into()), json!(100))),
        ]),
        &[("numerator must be less than or equal to denominator", "self.numerator <= self.denominator")],
    );
    let mirror = object(&[("backendRef!", mirror_ref()), ("percent", number(0, 100)), ("fraction", fraction)]);
    const ONE: &str = "Only one of percent or fraction may be specified in HTTPRequestMirrorFilter";
    rules(mirror, &[(ONE, "!(has(self.percent) && has(self.fraction))")])
}

fn path_modifier() -> Value {
    let path = object(&[
        ("type!", one_of(&["ReplaceFullPath", "ReplacePrefixMatch"])),
        ("replaceFullPath", text(0, 1024)),
        ("replacePrefixMatch", text(0, 1024)),
    ]);
    let mut all = Vec::new();
    for (kind, field) in [("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")] {
        all.push((
            format!("{field} must be specified when type is set to '{kind}'"),
            format!("self.type == '{kind}' ? has(self.{field}) : true"),
        ));
        all.push((
            format!("type must be '{kind}' when {field} is set"),
            format!("has(self.{field}) ? self.type == '{kind}' : true"),
        ));
    }
    let all: Vec<(&str, &str)> = all.iter().map(|(message, rule)| (message.as_str(), rule.as_str())).collect();
    rules(path, &all)
}

fn redirect_filter() -> Value {
    object(&[
        ("scheme", one_of(&["http", "https"])),
        ("hostname", precise_hostname()),
        ("path", path_modifier()),
        ("port", port()),
        ("statusCode", json!({"type": "integer", "enum": [301, 302, 303, 307, 308], "default": 302})),
    ])
}

fn extension() -> Value {
    object(&[("group!", group()), ("kind!", kind()), ("name!", name())])
}

/// Filters of these types, each with its own field.
fn filters(of: Vec<(&'static str, &'static str, Value)>, once: &[&str], mut more: Vec<(String, String)>) -> Value {
    let kinds: Vec<&str> = of.iter().map(|(kind, ..)| *kind).collect();
    let mut fields = vec![("type!", one_of(&kinds))];
    let mut own = Vec::new();
    for (kind, field, schema) in of {
        own.push((
            format!("filter.{field} must be nil if the filter.type is not {kind}"),
            format!("!(has(self.{field}) && self.type != '{kind}')"),
        ));
        own.push((
            format!("filter.{field} must be specified for {kind} filter.type"),
            format!("!(!has(self.{field}) && self.type == '{kind}')"),
        ));
        fields.push((field, schema));
    }
    more.extend(once.iter().map(|kind| {
        (format!("{kind} filter cannot be repeated"), format!("self.filter(f, f.type == '{kind}').size() <= 1"))
    }));
    let all = |list: &[(String, String)]| -> Vec<(String, String)> { list.to_vec() };
    let (own, more) = (all(&own), all(&more));
    fn pairs(list: &[(String, String)]) -> Vec<(&str, &str)> {
        list.iter().map(|(message, rule)| (message.as_str(), rule.as_str())).collect()
    }
    rules(list(rules(object(&fields), &pairs(&own)), 16), &pairs(&more))
}

fn http_filters() -> Value {
    let rewrite = object(&[("hostname", precise_hostname()), ("path", path_modifier())]);
    let both = (
        "May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both".to_owned(),
        "!(self.exists(f, f.type == 'RequestRedirect') && self.exists(f, f.type == 'URLRewrite'))".to_owned(),
    );
    filters(
        vec![
            ("RequestHeaderModifier", "requestHeaderModifier", headers_filter()),
            ("ResponseHeaderModifier", "responseHeaderModifier", headers_filter()),
            ("RequestMirror", "requestMirror", mirror_filter()),
            ("RequestRedirect", "requestRedirect", redirect_filter()),
            ("URLRewrite", "urlRewrite", rewrite),
            ("ExtensionRef", "extensionRef", extension()),
        ],
        &["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"],
        vec![both],
    )
}

fn grpc_filters() -> Value {
    filters(
        vec![
            ("RequestHeaderModifier", "requestHeaderModifier", headers_filter()),
            ("ResponseHeaderModifier", "responseHeaderModifier", headers_filter()),
            ("RequestMirror", "requestMirror", mirror_filter()),
            ("ExtensionRef", "extensionRef", extension()),
        ],
        &["RequestHeaderModifier", "ResponseHeaderModifier"],
        Vec::new(),
    )
}

/// The spec and status of a GRPCRoute.
pub fn grpc_route() -> Value {
    let method = rules(
        object(&[("type", match_kind()), ("service", text(0, 1024)), ("method", text(0, 1024))]),
        &[
            (
                "One or both of 'service' or 'method' must be specified",
                "has(self.type) ? has(self.service) || has(self.method) : true",
            ),
            (
                r"service must only contain valid characters (matching ^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$)",
                r#"(!has(self.type) || self.type == 'Exact') && has(self.service) ? self.service.matches(r"""^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$"""): true"#,
            ),
            (
                "method must only contain valid characters (matching ^[A-Za-z_][A-Za-z_0-9]*$)",
                r#"(!has(self.type) || self.type == 'Exact') && has(self.method) ? self.method.matches(r"""^[A-Za-z_][A-Za-z_0-9]*$"""): true"#,
            ),
        ],
    );
    let matching = object(&[("method", method), ("headers", map(value_match(4096), 16, "name"))]);
    let rule = object(&[
        ("name", section()),
        ("matches", list(matching, 64)),
        ("filters", grpc_filters()),
        ("backendRefs", list(backend_ref(vec![("filters", grpc_filters())]), 16)),
    ]);
    let count = most_matches(128, |at| format!("(has(self[{at}].matches) ? self[{at}].matches.size() : 0)"));
    const MANY: &str = "While 16 rules and 64 matches per rule are allowed, the total number of matches across all \
        rules in a route must be less than 128";
    let spec = object(&[
        ("parentRefs", parent_refs()),
        ("hostnames", list(hostname(), 16)),
        ("rules", rules(list(rule, 16), &[UNIQUE_NAMES, (MANY, &count)])),
    ]);
    object(&[("spec", spec), ("status", route_status())])
}

/// The spec and status of a TLSRoute.
pub fn tls_route() -> Value {
    const SHAPE: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$";
    let exact = format!("self.all(h, !h.contains('*') ? h.matches('{SHAPE}') : true)");
    let wildcard =
        format!("self.all(h, h.contains('*') ? (h.startsWith('*.') && h.substring(2).matches('{SHAPE}')) : true)");
    let hostnames = rules(
        with(list(text(1, 253), 1024), json!({"minItems": 1})),
        &[
            ("Hostnames cannot contain an IP", "self.all(h, !isIP(h))"),
            ("Hostnames must be valid based on RFC-1123", &exact),
            (
                "Wildcards on hostnames must be the first label, and the rest of hostname must be valid based on RFC-1123",
                &wildcard,
            ),
        ],
    );
    let backends = with(list(backend_ref(Vec::new()), 16), json!({"minItems": 1}));
    let rule = object(&[("name", section()), ("backendRefs!", backends)]);
    let spec = object(&[
        ("parentRefs", parent_refs()),
        ("hostnames!", hostnames),
        ("rules!", with(list(rule, 1), json!({"minItems": 1}))),
    ]);
    object(&[("spec!", spec), ("status", route_status())])
}
