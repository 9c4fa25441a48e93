"""Paste this into a first cell on Colab and run it once. It keeps the torch that Colab has, so a GPU is used where the session has one. It was not run here."""
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/olmoearth"   # of your copy
EXTRAS = "maps,train,finetune,audit"                # what the tutorials import

subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"olmoearth[{EXTRAS}] @ git+{REPOSITORY}"], check=True)
try:
    from google.colab import output
    output.enable_custom_widget_manager()           # live maps are widgets that Colab does not bring itself
except ImportError: print("this is not Colab: the packages are installed, the rest is not needed")
