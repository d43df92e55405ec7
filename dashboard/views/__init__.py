"""The pages of the dashboard. Streamlit runs each file from top to bottom whenever its page is shown."""
