# Makes a Samba domain. usage: domain.py SMB.CONF REALM HOST:ENCTYPES...
# ENCTYPES is msDS-SupportedEncryptionTypes: 24 is AES, 4 is RC4. Each host's
# keytab is put beside smb.conf.
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

conf, realm, hosts = sys.argv[1], sys.argv[2], sys.argv[3:]
lp = samba.param.LoadParm()
lp.load(conf)
provision(logging.getLogger("provision"), system_session(), smbconf=conf, lp=lp, realm=realm,
          domain=realm.split(".")[0], hostname="dc1", hostip="127.0.0.1", adminpass="Passw0rd.Adm",
          serverrole="dc", dns_backend="NONE", skip_sysvolacl=True, useeadb=False,
          dom_for_fun_level=samba.dsdb.DS_DOMAIN_FUNCTION_2008_R2, base_schema="2012_R2")

db = SamDB(url=lp.private_path("sam.ldb"), session_info=system_session(), lp=lp)
cred = Credentials()
cred.guess(lp)
net = Net(cred, lp)
for arg in hosts:
    host, etypes = arg.split(":")
    account = host.split(".")[0].upper()
    db.newcomputer(account, service_principal_name_list=["host/" + host])
    which = "(sAMAccountName=%s$)" % account
    m = ldb.Message(db.search(db.domain_dn(), expression=which)[0].dn)
    m["e"] = ldb.MessageElement(etypes, ldb.FLAG_MOD_REPLACE, "msDS-SupportedEncryptionTypes")
    db.modify(m)
    db.setpassword(which, "Mach1ne.Pass." + account, False)
    db.enable_account(which)
    for name in (account + "$", "host/" + host):
        net.export_keytab(keytab=os.path.join(os.path.dirname(conf), host + ".keytab"), principal=name)
