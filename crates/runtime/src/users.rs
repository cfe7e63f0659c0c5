//! Who a container runs as: names of the image's own passwd and group files, turned into numbers.
//! Pure; whoever calls reads the files.

use skiff_cri::{CriError, CriResult, LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use crate::oci;

/// The image's user database, as text; empty when the image has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserDb<'a> {
    /// `/etc/passwd`.
    pub passwd: &'a str,
    /// `/etc/group`.
    pub group: &'a str,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> UserDb<'a> {
    fn users(self) -> impl Iterator<Item = PasswdEntry<'a>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or("");
            Some(PasswdEntry { name, uid, gid, home })
        })
    }

    fn group_id(self, name: &str) -> Option<u32> {
        self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
        })
    }

    fn groups_of(self, user: &str) -> Vec<u32> {
        let member_of = self.group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let members = fields.get(3)?;
            members.split(',').any(|member| member == user).then(|| fields[2].parse().ok())?
        });
        member_of.collect()
    }

    /// The home of a user; `/` for those that the image does not know.
    pub fn home(self, uid: u32) -> String {
        let home = self.users().find(|user| user.uid == uid).map_or("", |user| user.home);
        if home.is_empty() { "/".to_owned() } else { home.to_owned() }
    }
}

/// The user and groups of a container's process: what the pod asks for, else what the image says, else root.
pub fn resolve(security: &LinuxContainerSecurityContext, image_user: &str, db: UserDb<'_>) -> CriResult<oci::User> {
    let (wanted_user, wanted_group) = wanted(security, image_user)?;
    let (uid, primary, name) = find_user(&wanted_user, db, security.run_as_user.is_none())?;
    let gid = match (&security.run_as_group, wanted_group) {
        (Some(group), _) => checked_id(group.value, "group")?,
        (None, Some(group)) => find_group(&group, db)?,
        (None, None) => primary,
    };
    let mut additional_gids = Vec::new();
    if security.supplemental_groups_policy != SupplementalGroupsPolicy::Strict as i32 {
        additional_gids.extend(name.map(|name| db.groups_of(name)).unwrap_or_default());
    }
    for group in &security.supplemental_groups {
        additional_gids.push(checked_id(*group, "group")?);
    }
    additional_gids.push(gid);
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(oci::User { uid, gid, umask: None, additional_gids })
}

fn wanted(security: &LinuxContainerSecurityContext, image_user: &str) -> CriResult<(String, Option<String>)> {
    if let Some(user) = &security.run_as_user {
        return Ok((user.value.to_string(), None));
    }
    if !security.run_as_username.is_empty() {
        return Ok((security.run_as_username.clone(), None));
    }
    if security.run_as_group.is_some() && image_user.is_empty() {
        return Err(CriError::invalid_argument("user group is specified without user"));
    }
    match image_user.split_once(':') {
        Some((user, group)) => Ok((user.to_owned(), Some(group.to_owned()))),
        None => Ok((image_user.to_owned(), None)),
    }
}

/// The number of a user, its primary group, and its name if the image knows it. A number from the pod may
/// be anything; a name must be known.
fn find_user<'a>(wanted: &str, db: UserDb<'a>, names: bool) -> CriResult<(u32, u32, Option<&'a str>)> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let by_name = names.then(|| db.users().find(|user| user.name == wanted)).flatten();
    if let Some(user) = by_name {
        return Ok((user.uid, user.gid, Some(user.name)));
    }
    let number: i64 = wanted.parse().map_err(|_| {
        CriError::invalid_argument(format!("unable to find user {wanted}: no matching entries in passwd file"))
    })?;
    let uid = checked_id(number, "user")?;
    let known = db.users().find(|user| user.uid == uid);
    Ok((uid, known.as_ref().map_or(0, |user| user.gid), known.map(|user| user.name)))
}

fn find_group(wanted: &str, db: UserDb<'_>) -> CriResult<u32> {
    if let Some(gid) = db.group_id(wanted) {
        return Ok(gid);
    }
    let number: i64 = wanted.parse().map_err(|_| {
        CriError::invalid_argument(format!("unable to find group {wanted}: no matching entries in group file"))
    })?;
    checked_id(number, "group")
}

/// Ids above the signed range are refused by the kernel's own tools; so upstream refuses them too.
fn checked_id(id: i64, what: &str) -> CriResult<u32> {
    let fits = i32::try_from(id).ok().and_then(|id| u32::try_from(id).ok());
    fits.ok_or_else(|| CriError::invalid_argument(format!("{what} id {id} is out of range")))
}

#[cfg(test)]
mod tests {
    use skiff_cri::Int64Value;

    use super::*;

    const DB: UserDb<'_> = UserDb {
        passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv/web:/bin/false\nbroken line\n",
        group: "root:x:0:\nwww:x:34:\nlogs:x:50:web,other\naudio:x:60:web\n",
    };

    fn check(security: LinuxContainerSecurityContext, image_user: &str) -> String {
        match resolve(&security, image_user, DB) {
            Ok(user) => format!("{}:{} {:?}", user.uid, user.gid, user.additional_gids),
            Err(error) => error.message,
        }
    }

    fn uid(value: i64) -> Option<Int64Value> {
        Some(Int64Value { value })
    }

    #[test]
    fn the_image_says_who_unless_the_pod_does() {
        let none = LinuxContainerSecurityContext::default;
        assert_eq!(check(none(), ""), "0:0 [0]");
        assert_eq!(check(none(), "web"), "33:34 [34, 50, 60]");
        assert_eq!(check(none(), "33"), "33:34 [34, 50, 60]");
        assert_eq!(check(none(), "web:logs"), "33:50 [50, 60]");
        assert_eq!(check(none(), "1000:1001"), "1000:1001 [1001]");
        assert_eq!(check(none(), "nobody"), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(check(LinuxContainerSecurityContext { run_as_user: uid(7), ..none() }, "web:logs"), "7:0 [0]");
        let by_name = LinuxContainerSecurityContext { run_as_username: "web".into(), run_as_group: uid(9), ..none() };
        assert_eq!(check(by_name, ""), "33:9 [9, 50, 60]");
        assert_eq!(
            check(LinuxContainerSecurityContext { run_as_group: uid(9), ..none() }, ""),
            "user group is specified without user"
        );
        assert_eq!(
            check(LinuxContainerSecurityContext { run_as_user: uid(1 << 40), ..none() }, ""),
            "user id 1099511627776 is out of range"
        );
    }

    #[test]
    fn strict_groups_leave_the_images_out() {
        let strict = LinuxContainerSecurityContext {
            run_as_user: uid(33),
            supplemental_groups: vec![2000],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..Default::default()
        };
        assert_eq!(check(strict.clone(), ""), "33:34 [34, 2000]");
        let merged = LinuxContainerSecurityContext { supplemental_groups_policy: 0, ..strict };
        assert_eq!(check(merged, ""), "33:34 [34, 50, 60, 2000]");
    }

    #[test]
    fn homes_come_from_passwd() {
        assert_eq!((DB.home(33).as_str(), DB.home(77).as_str()), ("/srv/web", "/"));
    }
}
