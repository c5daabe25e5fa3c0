# Makes an Active Directory domain with Samba, and then does what it is told.
# usage: ad.py SMB.CONF REALM ADDRESS; then one command in JSON on each line of the
# input, and one answer on each line of the output: {"error": "..."} or {}.
import json
import logging
import os
import sys

import ldb
import samba.dsdb
import samba.param
from samba import dckeytab  # noqa: F401, gives Net its export_keytab
from samba.auth import system_session
from samba.credentials import Credentials
from samba.net import Net
from samba.provision import provision
from samba.samdb import SamDB
from samba.sd_utils import SDUtils

conf, realm, address = sys.argv[1:4]
folder = os.path.dirname(conf)
lp = samba.param.LoadParm()
lp.load(conf)
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever the libraries print is no answer
provision(logging.getLogger("provision"), system_session(), smbconf=conf, lp=lp, realm=realm,
          domain=realm.split(".")[0], hostname="dc1", hostip=address, adminpass="Passw0rd.Adm",
          serverrole="dc", dns_backend="SAMBA_INTERNAL", skip_sysvolacl=True, useeadb=False,
          dom_for_fun_level=samba.dsdb.DS_DOMAIN_FUNCTION_2008_R2, base_schema="2012_R2")


class Commands:
    def __init__(self):
        self.db = SamDB(url=lp.private_path("sam.ldb"), session_info=system_session(), lp=lp)

    # keytab exports the keys of a principal; "": of all.
    def keytab(self, principal, file):
        cred = Credentials()
        cred.guess(lp)
        Net(cred, lp).export_keytab(keytab=os.path.join(folder, file), principal=principal or None)

    # computer makes an account with keys, below an entry of the domain.
    def computer(self, name, below, dns):
        account = name.upper()
        where = below[:-len("," + self.db.domain_dn())] if below != self.db.domain_dn() else None
        self.db.newcomputer(account, computerou=where, service_principal_name_list=["host/" + dns, "host/" + account])
        which = "(sAMAccountName=%s$)" % account
        m = ldb.Message(self.db.search(self.db.domain_dn(), expression=which)[0].dn)
        m["e"] = ldb.MessageElement("24", ldb.FLAG_MOD_REPLACE, "msDS-SupportedEncryptionTypes")
        m["d"] = ldb.MessageElement(dns, ldb.FLAG_MOD_REPLACE, "dNSHostName")
        self.db.modify(m)
        self.password(name)
        self.db.enable_account(which)

    # computers makes accounts h00000, h00001, ... with keys, all or none.
    def computers(self, count, below):
        self.db.transaction_start()
        try:
            for n in range(int(count)):
                name = "h%05d" % n
                dns = name + "." + realm.lower()
                self.db.add({"dn": "CN=%s,%s" % (name, below), "objectClass": "computer", "sAMAccountName": name.upper() + "$",
                             "dNSHostName": dns, "servicePrincipalName": ["host/" + dns, "host/" + name],
                             "userAccountControl": "4096", "msDS-SupportedEncryptionTypes": "24",
                             "clearTextPassword": ("Mach1ne." + os.urandom(8).hex()).encode("utf-16-le")})
        except Exception:
            self.db.transaction_cancel()
            raise
        self.db.transaction_commit()

    # password sets a new one that nobody needs to know.
    def password(self, name):
        self.db.setpassword("(sAMAccountName=%s$)" % name.upper(), "Mach1ne." + os.urandom(8).hex(), False)

    # ace adds an entry to the access control list of an object.
    def ace(self, dn, sddl):
        SDUtils(self.db).dacl_add_ace(dn, sddl)

    # descriptor replaces the access control of an object.
    def descriptor(self, dn, sddl):
        SDUtils(self.db).modify_sd_on_dn(dn, sddl)

    # ldif changes what it says.
    def ldif(self, text):
        self.db.modify_ldif(text)

    # sid returns that of an account.
    def sid(self, account):
        from samba.ndr import ndr_unpack
        from samba.dcerpc import security
        found = self.db.search(self.db.domain_dn(), expression="(sAMAccountName=%s)" % account, attrs=["objectSid"])
        return str(ndr_unpack(security.dom_sid, found[0]["objectSid"][0]))


commands = Commands()
print(json.dumps({}), file=out, flush=True)
for line in sys.stdin:
    command = json.loads(line)
    try:
        value = getattr(commands, command["do"])(*command["with"])
        answer = {"value": value or ""}
    except Exception as e:  # whoever asked reports it
        answer = {"error": repr(e)}
    print(json.dumps(answer), file=out, flush=True)
