"""Runs revisions on the connection that `arkgate.store.schema` hands over, inside its transaction."""

from alembic import context

from arkgate.store.tables import metadata


def run() -> None:
    """Applies what was asked for; the caller commits, so that a broken upgrade leaves nothing behind."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


run()
