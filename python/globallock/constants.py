"""Names and defaults of the configuration."""

REDIS_GLOBAL_LOCK_CLASS = "globallock.redis_global_lock.RedisGlobalLock"
DJANGO_REDIS_GLOBAL_LOCK_CLASS = "globallock.django_redis_global_lock.DjangoRedisGlobalLock"
#: In the PostgreSQL database of a Django project.
DATABASE_GLOBAL_LOCK_CLASS = "globallock.django_database_global_lock.DjangoDatabaseGlobalLock"
ETCD_GLOBAL_LOCK_CLASS = "globallock.etcd_global_lock.EtcdGlobalLock"
ZOOKEEPER_GLOBAL_LOCK_CLASS = "globallock.zookeeper_global_lock.ZookeeperGlobalLock"
#: Any store, by its address: the engine of a manager that is made from a URL.
URL_GLOBAL_LOCK_CLASS = "globallock.url_global_lock.UrlGlobalLock"

ENGINE_CLASSES = (
    REDIS_GLOBAL_LOCK_CLASS,
    DJANGO_REDIS_GLOBAL_LOCK_CLASS,
    DATABASE_GLOBAL_LOCK_CLASS,
    ETCD_GLOBAL_LOCK_CLASS,
    ZOOKEEPER_GLOBAL_LOCK_CLASS,
    URL_GLOBAL_LOCK_CLASS,
)

DEFAULT_GLOBAL_LOCK_ENGINE_CLASS = REDIS_GLOBAL_LOCK_CLASS
DEFAULT_GLOBAL_LOCK_ENGINE_OPTIONS: "dict[str, object]" = {}
DEFAULT_GLOBAL_LOCK_KEY_PREFIX = "_glocks:"

#: How many seconds a lock outlives its owner's last sign of life, on every engine.
DEFAULT_LEASE = 10.0

# The defaults of release 0.2.0, by its names. The lease here is shorter, and is renewed at a third of it.
GLOBALLOCK_REDIS_LOCK_TTL_DEFAULT = 30
GLOBALLOCK_REDIS_AUTO_RENEW_FLAG = True
GLOBALLOCK_REDIS_RENEW_INTERVAL = 5
