//! The heart of the tests: a table of expressions and what they give, and what the compiler says of wrong ones.

mod common;

use common::{check_table, compile_error};
use expect_test::expect;

#[test]
fn operators() {
    check_table(
        r#"
1 + 2 => 3
1 - 3 => -2
7 / 2 => 3
-7 / 2 => -3
-7 % 3 => -1
1 / 0 => error: division by zero
1 % 0 => error: modulus by zero
1u - 2u => error: unsigned integer overflow
9223372036854775807 + 1 => error: integer overflow
-9223372036854775808 => -9223372036854775808
-(-9223372036854775808) => error: integer overflow
-9223372036854775808 / -1 => error: integer overflow
1.5 + 1.5 => 3.0
1.0 / 0.0 == double('Infinity') => true
0xff => 255
0xffu => 255u
1 == 1.0 => compile error
dyn(1) == 1.0 => true
dyn(1u) == 1 => true
1 < 1.5 => true
2u > 1 => true
dyn(9007199254740993) == 9007199254740992.0 => false
'a' + 'b' => "ab"
b'a' + b'b' => b"6162"
[1] + [2, 3] => [1, 2, 3]
'a' < 'b' => true
true && false => false
!true => false
!!true => true
--1 => 1
true ? 1 : 2 => 1
false ? 1 : true ? 2 : 3 => 2
2 in [1, 2] => true
'a' in {'a': 1} => true
dyn(1.0) in {1: 'a'} => true
[1, 2][1] => 2
[1][1] => error: index out of bounds: 1
[1][-1] => error: index out of bounds: -1
{'a': 1}['a'] => 1
{'a': 1}.a => 1
{'a': 1}['b'] => error: no such key: b
{'a': 1}.b => error: no such key: b
{'a': 1, 'a': 2} => error: Failed with repeated key a
{1: 'x', 'a': true}['a'] => compile error
[1, 2] == [1, 2] => true
{'a': [1]} == {'a': [1]} => true
null == null => true
"é".size() => 1
r'\d' => "\\d"
'\u00e9\n' => "é\n"
"""a"b""" => "a\"b"
b'\xff' => b"ff"
`a` => compile error
{'a-b': 1}.`a-b` => 1
1 + 2 * 3 - 4 => 3
(1 + 2) * 3 => 9
// a comment
"#,
    );
}

#[test]
fn errors_are_absorbed() {
    check_table(
        r#"
true || 1/0 > 0 => true
1/0 > 0 || true => true
false && 1/0 > 0 => false
1/0 > 0 && false => false
1/0 > 0 || false => error: division by zero
1/0 > 0 && true => error: division by zero
[1, 0].exists(x, 1/x > 0) => true
[0, 1].exists(x, 1/x > 0) => true
[0, 1].all(x, 1/x > 1) => false
[0, 1].all(x, 1/x > 0) => error: division by zero
[0, 1].map(x, 1/x) => error: division by zero
(1/0 == 0) ? 1 : 2 => error: division by zero
true ? 1 : 1/0 => 1
cel.bind(x, 1/0, true) => true
cel.bind(x, 1/0, x == 1) => error: division by zero
"#,
    );
}

#[test]
fn macros() {
    check_table(
        r#"
[1, 2, 3].all(x, x > 0) => true
[].all(x, x > 0) => true
[1, 2, 3].exists(x, x > 2) => true
[1, 2, 2].exists_one(x, x == 2) => false
[1, 2, 3].exists_one(x, x == 2) => true
[1, 2, 3].map(x, x * 2) => [2, 4, 6]
[1, 2, 3].map(x, x > 1, x * 2) => [4, 6]
[1, 2, 3].filter(x, x > 1) => [2, 3]
{'a': 1, 'b': 2}.map(k, k) => ["a", "b"]
{'a': 1, 'b': 2}.all(k, v, v > 0) => true
[5, 6].exists(i, v, i == 1 && v == 6) => true
[5, 6].existsOne(i, v, v > 5) => true
[5, 6].transformList(i, v, i + v) => [5, 7]
[5, 6].transformList(i, v, i > 0, v) => [6]
{'a': 1}.transformMap(k, v, v + 1) => {"a": 2}
{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v) => {"b": 2}
{'a': 'x'}.transformMapEntry(k, v, {v: k}) => {"x": "a"}
[1, 2].transformMapEntry(i, v, {'k': v}) => error: insert failed: key String("k") already exists
has({'a': 1}.a) => true
has({'a': 1}.b) => false
cel.bind(x, 5, x * x) => 25
[[1, 2], [3]].map(x, x.map(y, y + 1)) => [[2, 3], [4]]
[1, 2].map(x, [3, 4].map(x, x)) => [[3, 4], [3, 4]]
[3, 1, 2].sortBy(x, -x) => [3, 2, 1]
optional.of(1).optMap(x, x + 1) => some(2)
optional.none().optMap(x, x + 1) => none
optional.of(1).optFlatMap(x, optional.none()) => none
"#,
    );
}

#[test]
fn optionals() {
    check_table(
        r#"
{'a': 1}.?a => some(1)
{'a': 1}.?b => none
{'a': 1}[?'a'] => some(1)
[1][?0] => some(1)
[1][?5] => none
{'a': {'b': 2}}.?a.b => some(2)
{'a': {'b': 2}}.?x.b => none
{'a': 1}.?b.orValue(7) => 7
{'a': 1}.?a.orValue(7) => 1
{'a': 1}.?b.or({'c': 3}.?c).value() => 3
optional.none().value() => error: optional.none() dereference
optional.of(1).hasValue() => true
optional.ofNonZeroValue(0) => none
optional.ofNonZeroValue('a') => some("a")
[?optional.of(1), ?optional.none(), 2] => [1, 2]
{?'a': optional.of(1), ?'b': optional.none()} => {"a": 1}
optional.of(1) == optional.of(1) => true
[optional.of(1), optional.none()].unwrapOpt() => [1]
has({'a': {'b': 1}}.?a.b) => true
[1, 2].first() => some(1)
[].last() => none
{'a': 1}.?b.optMap(x, x).orValue(9) => 9
"#,
    );
}

#[test]
fn conversions_and_types() {
    check_table(
        r#"
int('12') => 12
int('x') => error: strconv.ParseInt: parsing "x": invalid syntax
int(1.9) => 1
int(-1.9) => -1
int(1e30) => error: integer overflow
uint(3) => 3u
uint(-3) => error: unsigned integer overflow
double('1.5') => 1.5
string(1.0) => "1"
string(1000000.0) => "1e+06"
string(0.00001) => "1e-05"
string(true) => "true"
string(b'abc') => "abc"
string(b'\xff') => error: invalid UTF-8 in bytes, cannot convert to string
bytes('abc') => b"616263"
bool('true') => true
bool('x') => error: strconv.ParseBool: parsing "x": invalid syntax
type(1) == int => true
type('a') == string => true
type([1]) == list => true
type({}) == map => true
type(null) == null_type => true
type(type(1)) == type => true
type(1) == type(1u) => false
type(ip('1.2.3.4')) == net.IP => true
dyn(1) == dyn('a') => false
dyn('a') + 1 => error: no such overload
dyn(1).x => error: no such overload
dyn([1]).foo() => compile error
int(timestamp('1970-01-01T00:01:00Z')) => 60
"#,
    );
}

#[test]
fn times() {
    check_table(
        r#"
duration('1h30m') => duration(5400s)
duration('1.5s') => duration(1.5s)
duration('-2m') => duration(-120s)
duration('x') => compile error
duration('1' + 'x') => error: time: invalid duration "1x"
timestamp('2024-02-29T12:30:45.5Z') => timestamp(2024-02-29T12:30:45.5Z)
timestamp('2024-02-29T12:30:45+02:00') => timestamp(2024-02-29T10:30:45Z)
timestamp('2024-02-30T00:00:00Z') => compile error
timestamp('2024-01-01T00:00:00Z') + duration('24h') => timestamp(2024-01-02T00:00:00Z)
timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h') => true
timestamp('9999-12-30T21:59:59Z') + duration('48h') => error: timestamp overflow
timestamp('2024-02-29T12:30:45Z').getFullYear() => 2024
timestamp('2024-02-29T12:30:45Z').getMonth() => 1
timestamp('2024-02-29T12:30:45Z').getDate() => 29
timestamp('2024-02-29T12:30:45Z').getDayOfMonth() => 28
timestamp('2024-02-29T12:30:45Z').getDayOfWeek() => 4
timestamp('2024-02-29T12:30:45Z').getDayOfYear() => 59
timestamp('2024-02-29T12:30:45Z').getHours('-08:00') => 4
duration('90m').getHours() => 1
duration('90m').getMinutes() => 90
duration('1.234s').getMilliseconds() => 234
duration('1h') < duration('2h') => true
string(duration('90s')) => "90s"
"#,
    );
}

#[test]
fn texts() {
    check_table(
        r#"
'hello'.contains('ell') => true
'hello'.startsWith('he') && 'hello'.endsWith('lo') => true
'abc123'.matches('^[a-z]+\\d+$') => true
matches('abc', 'b') => true
'abc'.matches('(') => compile error
'abc'.charAt(1) => "b"
'abc'.charAt(3) => ""
'abc'.charAt(4) => error: index out of range: 4
'tacocat'.indexOf('ac') => 1
'tacocat'.indexOf('z') => -1
'tacocat'.indexOf('c', 3) => 4
'tacocat'.lastIndexOf('at') => 5
'tacocat'.lastIndexOf('a', 3) => 1
'a,b,c'.split(',') => ["a", "b", "c"]
'a,b,c'.split(',', 2) => ["a", "b,c"]
'abc'.split('') => ["a", "b", "c"]
['a', 'b'].join('-') => "a-b"
['a', 'b'].join() => "ab"
'TacoCat'.lowerAscii() => "tacocat"
'TacoCät'.upperAscii() => "TACOCäT"
'hello hello'.replace('he', 'we') => "wello wello"
'hello hello'.replace('he', 'we', 1) => "wello hello"
'tacocat'.substring(4) => "cat"
'tacocat'.substring(0, 4) => "taco"
'tacocat'.substring(4, 2) => error: invalid substring range. start: 4, end: 2
'  a '.trim() => "a"
strings.quote("a\"b") => "\"a\\\"b\""
'%s is %d'.format([dyn('a'), dyn(1)]) => "a is 1"
'%.2f %e'.format([1.234, 1234.5]) => "1.23 1.234500e+03"
'%x %X %b %o'.format([10, 10, 5, 8]) => "a A 101 10"
'%s'.format([[1, 2]]) => "[1, 2]"
'%s'.format([{'a': 1}]) => "{a: 1}"
'%%'.format([]) => "%"
'%d'.format(['a']) => error: error during formatting: decimal clause can only be used on integers, was given string
'%s'.format([]) => error: index 0 out of range
'abc 123'.find('[0-9]+') => "123"
'abc'.find('[0-9]+') => ""
'1 2 3'.findAll('[0-9]') => ["1", "2", "3"]
'1 2 3'.findAll('[0-9]', 2) => ["1", "2"]
"#,
    );
}

#[test]
fn lists_and_sets() {
    check_table(
        r#"
[1, 2, 3].isSorted() => true
['b', 'a'].isSorted() => false
[1, 2, 3].sum() => 6
[1.5, 2.5].sum() => 4.0
[3, 1, 2].min() => 1
['a', 'c'].max() => "c"
[].map(x, 1).min() => error: min called on empty list
[1, 2, 1].indexOf(1) => 0
[1, 2, 1].lastIndexOf(1) => 2
[1, 2, 3, 4].slice(1, 3) => [2, 3]
[1].slice(0, 3) => error: cannot slice(0, 3), list is length 1
[[1], [2, 3]].flatten() => [1, 2, 3]
lists.range(3) => [0, 1, 2]
lists.range(100000000000) => error: operation cancelled: actual cost limit exceeded
[1, 2, 1].distinct() => [1, 2]
[1, 2].reverse() => [2, 1]
[3, 1, 2].sort() => [1, 2, 3]
sets.contains([1, 2, 3], [3, 1]) => true
sets.equivalent([1, 2], [2, 1, 1]) => true
sets.intersects([1], [2]) => false
"#,
    );
}

#[test]
fn kubernetes_libraries() {
    check_table(
        r#"
url('https://user@example.com:8080/a/b?x=1&x=2').getHost() => "example.com:8080"
url('https://example.com:8080/a/b?x=1&x=2').getHostname() => "example.com"
url('https://[::1]:80/').getHostname() => "::1"
url('https://example.com:8080/a').getPort() => "8080"
url('https://example.com/a%20b').getEscapedPath() => "/a%20b"
url('https://example.com/?x=1&x=2&y=a%20b').getQuery() => {"x": ["1", "2"], "y": ["a b"]}
url('/path').getScheme() => ""
isURL('not a url') => false
isURL('https://example.com:xx/') => false
ip('192.168.0.1').family() => 4
ip('::1').isLoopback() => true
isIP('1.2.3') => false
ip('1.2.3.256') => error: IP Address "1.2.3.256" parse error during conversion from string: ParseAddr("1.2.3.256"): unable to parse IP
isIP('::ffff:1.2.3.4') => false
ip.isCanonical('2001:db8::abcd') => true
ip.isCanonical('2001:DB8::abcd') => false
ip('169.254.0.1').isLinkLocalUnicast() => true
ip('224.0.0.1').isLinkLocalMulticast() => true
ip('8.8.8.8').isGlobalUnicast() => true
string(ip('::1')) => "::1"
cidr('192.168.0.0/24').containsIP('192.168.0.5') => true
cidr('192.168.0.0/24').containsIP(ip('192.168.1.5')) => false
cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') => true
cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/16')) => false
cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24') => true
cidr('192.168.1.5/24').prefixLength() => 24
string(cidr('10.0.0.0/8').ip()) => "10.0.0.0"
isCIDR('10.0.0.0/33') => false
quantity('1Gi').isGreaterThan(quantity('1G')) => true
quantity('500m').add(quantity('500m')).compareTo(quantity('1')) => 0
quantity('1.5').isInteger() => false
quantity('2k').asInteger() => 2000
quantity('1.5').asInteger() => error: cannot convert value to integer
quantity('250m').asApproximateFloat() => 0.25
quantity('-1').sign() => -1
quantity('10').sub(3).asInteger() => 7
isQuantity('1x') => false
semver('1.2.3').isLessThan(semver('1.10.0')) => true
semver('1.0.0-alpha.1').isLessThan(semver('1.0.0')) => true
semver('v1.2', true).minor() => 2
isSemver('v1.2') => false
isSemver('01.2.3') => false
semver('1.2.3').compareTo(semver('1.2.3')) => 0
format.dns1123Label().validate('a-b') => none
format.dns1123Label().validate('A').hasValue() => true
format.named('uuid').value().validate('x') => some(["does not match the UUID format"])
format.named('nothing') => none
jsonpatch.escapeKey('a/b~c') => "a~1b~0c"
"#,
    );
}

#[test]
fn variables_of_objects() {
    check_table(
        r#"
self.name => "web"
self.spec.replicas + 1 => 4
self.spec.when > timestamp('2020-01-01T00:00:00Z') => true
self.spec.wait == duration('90s') => true
self.spec.ratio => 2.0
self.spec.labels.all(k, self.spec.labels[k] != '') => true
self.spec.labels['app'] => "x"
self.spec.ports.exists(p, p.name == 'http') => true
self.spec.ports.map(p, p.port) => [80, 443]
self.spec.set == ['b', 'a'] => true
self.spec.set + ['a', 'c'] => ["a", "b", "c"]
has(self.spec.missing) => false
self.spec.missing => error: no such key: missing
has(self.spec.__namespace__) => true
self.spec.a__dash__b => 1
self.spec.port == 8080 => true
type(self.spec.port) == int => true
self.metadata.name => "w"
self.spec.hidden => compile error
self.spec.nothing == null => compile error
self.spec.blob => b"6869"
"#,
    );
}

#[test]
fn what_the_compiler_says() {
    compile_error(
        "self.spec.nope > 1",
        expect![[r#"
            ERROR: <input>:1:10: undefined field 'nope'
             | self.spec.nope > 1
             | .........^"#]],
    );
    compile_error(
        "self.name + 1",
        expect![[r#"
            ERROR: <input>:1:11: found no matching overload for '_+_' applied to '(string, int)'
             | self.name + 1
             | ..........^"#]],
    );
    compile_error(
        "self.name.startsWith(1) && foo",
        expect![[r#"
            ERROR: <input>:1:21: found no matching overload for 'startsWith' applied to 'string.(int)'
             | self.name.startsWith(1) && foo
             | ....................^
            ERROR: <input>:1:28: undeclared reference to 'foo' (in container '')
             | self.name.startsWith(1) && foo
             | ...........................^"#]],
    );
    compile_error(
        "[1, 'a']",
        expect![[r#"
            ERROR: <input>:1:5: expected type 'int' but found 'string'
             | [1, 'a']
             | ....^"#]],
    );
    compile_error(
        "self.name.all(x, true)",
        expect![[r#"
            ERROR: <input>:1:5: expression of type 'string' cannot be range of a comprehension (must be list, map, or dynamic)
             | self.name.all(x, true)
             | ....^"#]],
    );
    compile_error(
        "1 +",
        expect![[r#"
            ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}
             | 1 +
             | ...^"#]],
    );
    compile_error(
        "has(self)",
        expect![[r#"
            ERROR: <input>:1:5: invalid argument to has() macro
             | has(self)
             | ....^"#]],
    );
    compile_error(
        "'a'.matches('(') &&\n duration('1') == null",
        expect![[r#"
            ERROR: <input>:1:13: invalid matches argument
             | 'a'.matches('(') &&
             | ............^
            ERROR: <input>:2:11: invalid duration argument
             |  duration('1') == null
             | ..........^"#]],
    );
}
