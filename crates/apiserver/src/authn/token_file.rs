//! A file of tokens that are known beforehand: in each line a token, the user's name, the UID and groups.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#static-token-file>.

use crate::call::UserInfo;

/// The fewest columns of a line.
const COLUMNS: usize = 3;

/// Reads the file; `name` is for people.
///
/// # Errors
/// A line has too few columns, or a quoted value does not end.
pub fn read(text: &str, name: &str) -> Result<Vec<(String, UserInfo)>, String> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let columns = columns(line).ok_or_else(|| format!("{name:?}, line {}: a quote is not closed", index + 1))?;
        let [token, user, uid, rest @ ..] = columns.as_slice() else {
            return Err(format!(
                "token file {name:?} must have at least {COLUMNS} columns (token, user name, user uid), found {}",
                columns.len()
            ));
        };
        if token.is_empty() {
            tracing::warn!(file = name, line = index + 1, "an empty token has been found in the token file");
            continue;
        }
        let groups = rest.first().map(String::as_str).unwrap_or("").split(',').map(str::trim);
        let groups = groups.filter(|group| !group.is_empty()).map(str::to_owned).collect();
        let mut user = UserInfo { name: user.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
        user.authenticated();
        tokens.push((token.clone(), user));
    }
    Ok(tokens)
}

/// The values of a line, of which each may be in quotes.
fn columns(line: &str) -> Option<Vec<String>> {
    let (mut columns, mut rest) = (Vec::new(), line);
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (value, after) = rest.split_once(',').map_or((rest, None), |(value, after)| (value, Some(after)));
            columns.push(value.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Some(columns),
            }
            continue;
        };
        let mut value = String::new();
        let mut left = quoted;
        loop {
            let (part, after) = left.split_once('"')?;
            value.push_str(part);
            // Two quotes stand for one.
            match after.strip_prefix('"') {
                Some(after) => {
                    value.push('"');
                    left = after;
                }
                None => {
                    left = after;
                    break;
                }
            }
        }
        columns.push(value);
        if left.is_empty() {
            return Some(columns);
        }
        rest = left.strip_prefix(',')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tokens_users_and_groups() {
        let text = "t1,jane,7\n\nt2,\"joe \"\"j\"\"\",8,\"dev, ops\"\n,nobody,9\nt3,jim,1,dev\n";
        let read = read(text, "f").expect("well-formed");
        let shown: Vec<_> = read
            .iter()
            .map(|(token, user)| format!("{token} {} {} {}", user.name, user.uid, user.groups.join("+")))
            .collect();
        assert_eq!(
            shown,
            [
                "t1 jane 7 system:authenticated",
                "t2 joe \"j\" 8 dev+ops+system:authenticated",
                "t3 jim 1 dev+system:authenticated"
            ]
        );
        let fault = |text: &str| super::read(text, "f").expect_err(text);
        assert_eq!(
            fault("a,b"),
            r#"token file "f" must have at least 3 columns (token, user name, user uid), found 2"#
        );
        assert_eq!(fault("a,\"b,c"), r#""f", line 1: a quote is not closed"#);
    }
}
